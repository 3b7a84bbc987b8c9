"""The command line, a function for each command. Heavy libraries are imported when a command needs them."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from pathlib import Path

from evals.cli import ablations as ablations_command
from evals.cli import analysis as analysis_command
from evals.cli import bench as bench_command
from evals.cli import folders as folder_commands
from evals.cli.arguments import chosen, device_of, natural, out_of, positive, print_json, stream_of
from evals.matrix import packages
from hidrop.errors import UserError

DONE, SOME_FAILED, USER, INTERRUPTED = 0, 1, 2, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns 0: done, 1: some cells failed, 2: the user has to change something, 130: interrupted."""
    arguments = parser().parse_args(with_command(sys.argv[1:] if argv is None else argv))
    try:
        return arguments.action(arguments)
    except UserError as error:
        print(error, file=sys.stderr)
        return USER
    except ModuleNotFoundError as error:
        if error.name not in packages.COMMANDS:
            raise
        print(packages.missing(error.name), file=sys.stderr)
        return USER
    except KeyboardInterrupt:
        print("interrupted. Run the same command again to go on where this one stopped.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `run.py plan paper | head`
        sys.stderr.close()
        return DONE


def with_command(argv: list[str]) -> list[str]:
    """`--matrix mini` stands for `run --matrix mini`."""
    implied = argv and argv[0].startswith("-") and argv[0] not in ("-h", "--help")
    return ["run", *argv] if implied else argv


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="run.py",
        description="Compare visual-token reduction methods on one runtime: accuracy, FLOPs, memory, latency.",
        epilog="`run.py --matrix X` is short for `run.py run --matrix X`; X is a file, or smoke, mini or paper.",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a matrix and write its table; run again to finish what is missing")
    run.add_argument("--matrix", required=True, metavar="FILE", help="matrix file, or the name of a bundled one")
    run.set_defaults(action=run_command)

    retry = commands.add_parser("retry", help="run only what failed in the last run of a matrix")
    retry.add_argument("matrix", metavar="FILE")
    retry.set_defaults(action=run_command, force=False, retry=True)
    run.add_argument("--force", action="store_true", help="run finished cells again; what there is is put aside")
    run.set_defaults(retry=False)

    plan = commands.add_parser("plan", help="print tokens, FLOPs and KV bytes of every row; loads no weights")
    plan.add_argument("matrix", metavar="FILE")
    plan.add_argument("--cost", type=Path, metavar="BENCH", help="hours it takes, by a file that `bench` wrote")
    plan.set_defaults(action=plan_command)

    validate = commands.add_parser("validate", help="list everything that would keep a matrix from running")
    validate.add_argument("matrix", metavar="FILE", help="a matrix, or a recipe of `train`")
    validate.set_defaults(action=validate_command)

    throughput = commands.add_parser(
        "throughput", help="time a matrix's accuracy cells beside one sample at a time; exit 1 below 4 times as fast"
    )
    throughput.add_argument("matrix", metavar="FILE")
    throughput.set_defaults(action=throughput_command)

    for command in (run, retry, plan, validate, throughput):
        command.add_argument("--only", metavar="PATTERN", help="only cells whose model/method/task matches")
        command.add_argument("--json", action="store_true", help="last line of stdout: the result as one JSON document")
    for command in (run, retry, validate):
        command.add_argument("--out", type=Path, metavar="DIR", help="results folder (default: results/<matrix>)")
    for command in (run, retry, validate, throughput):
        command.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1 ... (default: the matrix's)")
        command.add_argument("--limit", type=positive, metavar="N", help="only the first N samples of each task")
    for command in (run, retry, throughput):
        command.add_argument("--workers", type=natural, metavar="N", help="threads that prepare images ahead")
    for command in (run, retry):
        command.add_argument("--quiet", action="store_true", help="no progress, only the table")

    bench_command.add(commands)

    train = commands.add_parser("train", help="train a small model by its recipe, such as mini-hidrop")
    train.add_argument("recipe", metavar="RECIPE")
    train.add_argument("--resume", action="store_true", help="go on from the last saved state")
    train.add_argument("--out", type=Path, metavar="DIR")
    train.set_defaults(action=train_command)

    ablations_command.add(commands)
    analysis_command.add(commands)

    convert = commands.add_parser("convert", help="write a checkpoint of LLaVA's original layout in transformers'")
    convert.add_argument("source", metavar="SRC", help="its folder, or a Hub id")
    convert.add_argument("target", metavar="DST", type=Path, help="a new folder")
    convert.add_argument("--download", action="store_true", help="fetch what is not on this machine from the Hub")
    convert.set_defaults(action=convert_command)

    agree = commands.add_parser("agree", help="compare a run's answers with a published answers file, sample by sample")
    agree.add_argument("--answers", required=True, type=Path, metavar="FILE", help="LLaVA's answers, a JSON-lines file")
    agree.add_argument("--run", required=True, type=Path, metavar="DIR", help="results folder, or one journal in it")
    agree.add_argument("--task", metavar="TASK", help="gqa, mmbench_en_dev, textvqa_val or pope")
    agree.add_argument("--cell", metavar="PATTERN", help="which row of the folder: model/method")
    agree.add_argument(
        "--questions", type=Path, metavar="FILE", help="the benchmark's question file, to match by image"
    )
    agree.add_argument("--data", metavar="DIR", help="the data that the run read (default: the embedded benchmark)")
    agree.add_argument("--flips", type=int, default=10, metavar="N", help="how many differing samples to print")
    agree.add_argument("--json", action="store_true", help="last line of stdout: the comparison as one JSON document")
    agree.set_defaults(action=agree_command)

    folder_commands.add(commands)
    return top


def run_command(arguments: argparse.Namespace) -> int:
    from evals import report
    from evals.run.matrix_run import RunOptions, run_matrix

    stream = stream_of(arguments)
    options = RunOptions(
        matrix=arguments.matrix,
        out=arguments.out,
        only=arguments.only,
        limit=arguments.limit,
        device=arguments.device,
        workers=arguments.workers,
        force=arguments.force,
        retry=arguments.retry,
        quiet=arguments.quiet,
        stream=stream,
        command=shlex.join(["run.py", *sys.argv[1:]]),
    )
    made = run_matrix(options)
    if made is None:
        return DONE
    document = made.document
    report.show(document, stream)
    for failure in document["failed"]:
        where = "/".join(part for part in (failure["model"], failure["label"], failure["task"]) if part)
        print(f"failed: {where}: {failure['error']} (traceback: {failure['traceback']})", file=sys.stderr)
    print(f"written: {', '.join(str(path) for path in made.written)}", file=stream)
    print_json(arguments, document)
    return SOME_FAILED if document["failed"] else DONE


def plan_command(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from evals.bench import cost
    from evals.matrix import plan_table as planning
    from evals.matrix.resolve import resolve

    matrix, cells = chosen(arguments)
    speed = cost.read(arguments.cost) if arguments.cost else None
    rows, problems = resolve(matrix, cells, trust_presets=True)
    entries = [planning.entry(row, matrix) for row in rows.values()]
    console = Console()
    if not entries:
        pass
    elif console.is_terminal:
        console.print(planning.table(matrix, entries))
    else:
        console.file.write(planning.plain(matrix, entries))
    costs = cost.estimate(matrix, cells, rows, speed) if speed else []
    if speed:
        print("\n" + cost.text(costs, speed))
    if problems:
        raise UserError("\n".join(problems))
    document = {"matrix": matrix.name, "rows": entries}
    print_json(arguments, document | ({"cost": list(map(dataclasses.asdict, costs))} if speed else {}))
    return DONE


def validate_command(arguments: argparse.Namespace) -> int:
    from evals.matrix.validate import check
    from hidrop.recipes import is_recipe

    if is_recipe(arguments.matrix):
        return validate_recipe(arguments)
    matrix, cells = chosen(arguments)
    rows, problems = check(matrix, cells, device=device_of(arguments, matrix), out=out_of(arguments, matrix))
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{matrix.file}: ok, {len(cells)} cells in {len(rows)} rows")
    print_json(arguments, {"matrix": matrix.name, "cells": len(cells), "problems": problems})
    return USER if problems else DONE


def validate_recipe(arguments: argparse.Namespace) -> int:
    from hidrop.recipes import check

    found = check(arguments.matrix)
    print("\n".join(found.problems) if found.problems else f"{found.name}: ok, {found.summary}")
    print_json(arguments, {"recipe": found.name, "problems": found.problems})
    return USER if found.problems else DONE


def throughput_command(arguments: argparse.Namespace) -> int:
    from evals.bench import throughput
    from evals.matrix.validate import check
    from evals.run import engine

    arguments.limit = arguments.limit or throughput.LIMIT
    matrix, cells = chosen(arguments)
    device = device_of(arguments, matrix)
    rows, problems = check(matrix, cells, device=device, out=Path("."))
    if problems:
        raise UserError("\n".join(problems))
    stream = stream_of(arguments)

    def say(line: str) -> None:
        print(line, file=stream, flush=True)

    found = throughput.measure(cells, rows, device, engine.default(arguments.workers), engine.default(0), say)
    say(throughput.table(found))
    print_json(arguments, {"matrix": matrix.name, "cells": [dataclasses.asdict(one) for one in found]})
    return DONE if throughput.together(found).holds else SOME_FAILED


def train_command(arguments: argparse.Namespace) -> int:
    import logging

    from hidrop.recipes import train

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    train(arguments.recipe, out=arguments.out, resume=arguments.resume)
    return DONE


def convert_command(arguments: argparse.Namespace) -> int:
    from hidrop.models import convert, peek

    folder = convert(arguments.source, arguments.target, allow_download=arguments.download)
    peeked = peek(folder)
    sizes = f"{peeked.geometry.layers} layers, {peeked.geometry.visual_tokens} visual tokens an image"
    trained = f"trained with {peeked.reducer}" if peeked.reducer else "it names no reduction that it was trained with"
    print(f"written: {folder} ({sizes}; {trained})")
    return DONE


def agree_command(arguments: argparse.Namespace) -> int:
    from evals.report import agreement as agree

    run = agree.read_run(agree.find_run(arguments.run, arguments.task, arguments.cell))
    if arguments.task not in (None, run.task):
        raise UserError(f"--task {arguments.task}: {run.path} is a run of {run.task}")
    docs = agree.read_docs(run, arguments.data)
    published, unmatched = agree.match(arguments.answers, arguments.questions, run.task, docs)
    found = agree.agree(run, docs, published, unmatched)
    print(found.text(arguments.flips))
    print_json(arguments, dataclasses.asdict(found))
    return DONE
