"""Commands on a matrix: run, retry, plan, validate, throughput. They take the same options."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from evals.cli.command import Group
from evals.cli.exit_codes import DONE, SOME_FAILED, USER
from evals.cli.options import BUNDLED, Options, Workers, argument, command_line, flag, option, written
from hidrop.errors import UserError
from hidrop.program import program
from hidrop.visible import visible

if TYPE_CHECKING:
    from evals.run.matrix_run import RunOptions

COMMANDS = Group("Run a matrix")


@dataclass(frozen=True, kw_only=True)
class MatrixOptions(Options):
    """A matrix and what to change about it."""

    file: Annotated[str | None, argument("MATRIX", f"A matrix file, or a bundled matrix: {', '.join(BUNDLED)}.")] = None
    matrix: Annotated[str | None, option("--matrix", "MATRIX", "The same matrix, given as an option.")] = None
    only: Annotated[
        str | None, option("--only", "PATTERN", "Only the cell of this name, or cells whose model/method/task matches.")
    ] = None
    limit: Annotated[int | None, option("--limit", "N", "Only the first N samples of each task.", min=1)] = None
    device: Annotated[
        str | None, option("--device", "DEVICE", "auto, cpu, cuda, cuda:1 ... instead of the matrix's device.")
    ] = None
    workers: Workers = None
    out: Annotated[Path | None, option("--out", "DIR", "Results folder (default: results/<matrix>).")] = None
    force: Annotated[bool, flag("--force", "Run finished cells again. Their old files are moved, not deleted.")] = False

    keep_cells: Annotated[
        bool,
        flag(
            "--keep-cells", "Take finished cells of an earlier version of hidrop or of a method. The caption says so."
        ),
    ] = False
    share: Annotated[
        bool, flag("--share", "Let other runs with --share take cells in the same folder. Takes no timings.")
    ] = False

    @property
    def name(self) -> str:
        """The matrix, from the argument or the option. Raises UserError for none and for two different ones."""
        if self.file and self.matrix and self.file != self.matrix:
            raise UserError(f"give one matrix, not two (got {self.file} and --matrix {self.matrix})")
        name = self.file or self.matrix
        if not name:
            known = ", ".join(BUNDLED)
            raise UserError(f"MATRIX is missing: give a file, or one of {known}. Example: {program()} --matrix mini")
        return name

    def run_options(self) -> RunOptions:
        from evals.run.matrix_run import RunOptions

        return RunOptions(
            matrix=self.name,
            out=self.out,
            only=self.only,
            limit=self.limit,
            device=self.device,
            workers=self.workers,
            force=self.force,
            keep_cells=self.keep_cells,
            share=self.share,
            quiet=self.quiet,
            stream=self.stream,
            command=command_line(),
        )


@dataclass(frozen=True, kw_only=True)
class PlanOptions(MatrixOptions):
    cells: Annotated[bool, flag("--cells", "Print the name of each cell instead, one per line, for --only.")] = False
    cost: Annotated[
        Path | None, option("--cost", "BENCH", "Estimate the hours of a run from a file that `bench` wrote.")
    ] = None
    image: Annotated[
        str | None,
        option(
            "--image", "WxH|TASK", "Plan for images of this size in pixels, or for a task's own; several by commas."
        ),
    ] = None


@COMMANDS.command("run", example="mini --limit 8")
def run(options: MatrixOptions) -> int:
    """Run a matrix and write its tables.

    Run it again to finish what is missing. Exits with 1 when cells failed; the others are in the table.
    """
    return run_matrix(options)


@COMMANDS.command("retry", example="mini")
def retry(options: MatrixOptions) -> int:
    """Run only the cells that failed in the last run.

    Takes the options of `run`.
    """
    return run_matrix(options, retry=True)


def run_matrix(options: MatrixOptions, *, retry: bool = False) -> int:
    options.loading(f"{options.name}: loading libraries")
    from evals import report
    from evals.run import matrix_run
    from hidrop.devices import remember_threads

    finished = matrix_run.run_matrix(dataclasses.replace(options.run_options(), retry=retry))
    remember_threads()
    if finished is None:  # this process only helped another one
        return DONE
    document = finished.document
    report.show(document, options.stream)
    for failure in document["failed"]:
        where = "/".join(part for part in (failure["model"], failure["label"], failure["task"]) if part)
        trace = f" (traceback: {failure['traceback']})" if Path(failure["traceback"]).is_file() else ""
        print(visible(f"failed: {where}: {failure['error']}{trace}"), file=sys.stderr)
    if finished.others:
        options.say("other runs with --share are at work in this folder: the last one writes the tables")
    elif finished.unwritten:
        print(visible(f"failed: the tables: {finished.unwritten}"), file=sys.stderr)
    else:
        options.say(written(*finished.written))
    options.document(document)
    return SOME_FAILED if document["failed"] or finished.unwritten else DONE


@COMMANDS.command("plan", example="paper --only fastv")
def plan(options: PlanOptions) -> int:
    """Print tokens, FLOPs and KV bytes of every row.

    Needs no checkpoint for models whose sizes are known, and loads no weights. Takes the options of `run`, so that you
    can paste its command line; --device, --workers, --out, --force, --keep-cells and --share change nothing here.
    """
    if options.cells:
        return list_cells(options)
    options.loading(f"{options.name}: reading models")
    from rich.console import Console

    from evals.matrix import image_plan, plan_table, schema
    from evals.matrix.resolve import resolve

    code = announced(options, schema.find(options.name))
    matrix, cells = options.run_options().load()
    if options.cost:
        from evals.bench import cost

        speed = cost.read(options.cost)
    rows, problems = resolve(matrix, cells, trust_presets=True)
    if options.image and not problems:
        entries = image_plan.entries([*rows.values()], matrix, image_plan.read(options.image, matrix))
    else:
        entries = [plan_table.entry(row, matrix) for row in rows.values()]
    console = Console(file=options.stream)
    if entries and console.is_terminal:
        console.file.write(plan_table.screen(matrix, entries, console.width))
    elif entries:
        console.file.write(plan_table.plain(matrix, entries))
    costs = list[Any]()
    if options.cost:
        costs = cost.estimate(matrix, cells, rows, speed)
        options.say("\n" + cost.text(costs, speed))
    if problems:
        raise UserError("\n".join(problems))
    document = {"matrix": matrix.name, "batch_size": matrix.batch_size, "rows": entries, **code}
    options.document(document | ({"cost": list(map(dataclasses.asdict, costs))} if options.cost else {}))
    return DONE


def list_cells(options: PlanOptions) -> int:
    """Print each cell as `--only` takes it, and nothing else."""
    matrix, cells = options.run_options().load()
    options.say("\n".join(cell.key for cell in cells))
    options.document({"matrix": matrix.name, "cells": [cell.key for cell in cells]})
    return DONE


@COMMANDS.command("validate", example="paper")
def validate(options: MatrixOptions) -> int:
    """List every problem that would stop a matrix or a recipe.

    Takes the options of `run`, so that you can paste its command line; --workers, --force, --keep-cells and
    --share change nothing here. MATRIX may also be a recipe of `train`. Exits with 2 when there are problems.
    """
    options.loading(f"{options.name}: checking files, data and packages")
    from evals.matrix.dtype_hint import bfloat16_hint
    from evals.matrix.schema import find
    from evals.matrix.validate import check, notes
    from hidrop.recipes import is_recipe

    if is_recipe(options.name):
        return validate_recipe(options)
    asked, code = options.run_options(), announced(options, find(options.name))
    matrix, cells = asked.load()
    device = asked.place(matrix)
    rows, problems = check(matrix, cells, device=device, out=asked.folder(matrix))
    verdict = f"{matrix.file}: ok, {len(cells)} cells in {len(rows)} rows, batch size {matrix.batch_size}"
    known = [*notes(matrix, cells), *bfloat16_hint(matrix, cells, device)] if not problems else []
    document = {
        "matrix": matrix.name,
        "batch_size": matrix.batch_size,
        "cells": len(cells),
        "problems": problems,
        "notes": known,
        **code,
    }
    return told(options, problems, "\n".join([verdict, *(f"note: {line}" for line in known)]), document)


def announced(options: MatrixOptions, file: Path) -> dict[str, Any]:
    """Print which code a file runs that is not part of hidrop, before it is imported; what a document says of it."""
    from evals.matrix import outside_code

    found = outside_code.outside_code(file)
    if found:
        options.say(outside_code.text(found))
    return {"code": found} if found else {}


def validate_recipe(options: MatrixOptions) -> int:
    from hidrop.recipes import check, file_of

    code = announced(options, file_of(options.name))
    found = check(options.name, out=options.out)
    for note in found.notes:
        options.say(note)
    document = {"recipe": found.name, "problems": found.problems, "notes": found.notes, **code}
    return told(options, found.problems, f"{found.name}: ok, {found.summary}", document)


def told(options: Options, problems: list[str], verdict: str, document: dict[str, Any]) -> int:
    """Print the problems, or else the verdict."""
    if problems:
        options.problem("\n".join(problems))
    else:
        options.say(verdict)
    options.document(document)
    return USER if problems else DONE


@COMMANDS.command("throughput", example="mini --limit 32")
def throughput(options: MatrixOptions) -> int:
    """Compare a matrix's speed with one sample at a time.

    Takes the options of `run`; --out, --force, --keep-cells and --share change nothing here. --limit defaults to 128
    samples. Exits with 1 when the matrix is less than 4 times as fast, or gives other answers.
    """
    options.loading(f"{options.name}: loading libraries")
    from evals.bench import throughput as timing
    from evals.matrix.validate import check
    from evals.run import engine

    asked = dataclasses.replace(options.run_options(), limit=options.limit or timing.LIMIT)
    matrix, cells = asked.load()
    device = asked.place(matrix)
    rows, problems = check(matrix, cells, device=device, out=Path("."))
    if problems:
        raise UserError("\n".join(problems))
    own, alone = engine.default(options.workers), engine.default(0)
    found = timing.measure(cells, rows, device, own, alone, options.say)
    options.say(timing.table(found))
    options.document({"matrix": matrix.name, "cells": [dataclasses.asdict(one) for one in found]})
    return DONE if timing.together(found).holds else SOME_FAILED
