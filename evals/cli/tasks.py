"""The commands on tasks (benchmarks): tasks, score."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from evals.cli.command import Group
from evals.cli.exit_codes import DONE, SOME_FAILED
from evals.cli.options import Options, argument, flag, option, written
from hidrop.errors import UserError

if TYPE_CHECKING:
    from evals.store.result_document import ResultDocument

COMMANDS = Group("Tasks")


@dataclass(frozen=True, kw_only=True)
class TasksOptions(Options):
    grep: Annotated[str | None, option("--grep", "WORD", "Only lines with this text, capitals aside.")] = None
    kind: Annotated[str | None, option("--class", "CLASS", "Only this class, such as 'runs here'.")] = None


@COMMANDS.command("tasks", example="--grep chart")
def tasks(options: TasksOptions) -> int:
    """List all tasks that a matrix can name, each with its class and what it needs.

    The classes: first-class (a file in this project, with LLaVA's protocol where LLaVA has one), runs here (lmms-eval's
    own questions and scores), log-likelihood (the model rates given answers), to judge and to submit (the answers are
    written, and scored elsewhere), needs packages, needs data (a step downloads), refused. Groups and tags stand for
    their tasks. No data set is loaded, and no function of a task is run.
    """
    from evals.plain_table import aligned
    from evals.tasks.index import tasks_folder
    from evals.tasks.listing import HEADINGS, chosen, counts, listed

    if tasks_folder() is None:
        raise UserError("lmms-eval is not installed: install it with `make setup`, or pip install --no-deps lmms-eval")
    everything = listed()
    found = chosen(everything, options.grep, options.kind)
    if not found:
        kinds = ", ".join(counts(everything))
        raise UserError(f"no task with this text and class, of {len(everything):,}. The classes: {kinds}")
    options.say("\n".join(aligned([HEADINGS, *(one.cells() for one in found)])))
    options.say(
        f"\n{len(found):,} of {len(everything):,} names: {', '.join(f'{n} {k}' for k, n in counts(found).items())}"
    )
    options.document({"tasks": [dataclasses.asdict(one) for one in found], "total": len(everything)})
    return DONE


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Options):
    folder: Annotated[Path, argument("DIR", "A results folder.")]
    judge: Annotated[str, option("--judge", "NAME", "Who judges, for the table: a model with its version, or people.")]
    judgements: Annotated[
        Path | None, option("--judgements", "FILE", 'JSON lines: {"doc_id": 3, "score": 0.5, "cell": "a/b/mmvet"}.')
    ] = None
    function: Annotated[
        str | None, option("--with", "FILE.py:NAME", "A function from a line of answers.jsonl to a score from 0 to 1.")
    ] = None
    official: Annotated[
        bool, flag("--official", "lmms-eval's own functions: they ask the server that your variables name.")
    ] = False
    only: Annotated[str | None, option("--only", "TEXT", "Only cells whose model/method/task has this text.")] = None
    again: Annotated[bool, flag("--again", "Also cells that a judge has scored: replace their scores.")] = False


@COMMANDS.command("score", example="results/mine --judge gpt-4.1 --judgements scores.jsonl")
def score(options: ScoreOptions) -> int:
    """Score answers that wait for a judge, and write the tables again.

    A run writes them to submissions/CELL/answers.jsonl, and its cells say "to judge". Give the scores in a file, a
    function that makes them, or --official. Only lmms-eval's functions, with --official, use the network.
    """
    ways = [options.judgements, options.function, options.official or None]
    if sum(way is not None for way in ways) != 1:
        raise UserError("give one of --judgements FILE, --with FILE.py:NAME and --official")
    options.loading(f"{options.folder}: loading libraries")
    from evals import report
    from evals.store import judging
    from evals.store.folders import check_inside, read_document
    from evals.store.lock import locked
    from evals.tasks.registry import add_files

    check_inside(options.folder)
    with locked(options.folder):
        document = read_document(options.folder)
        add_files(document.get("own_tasks", {}))
        only = options.only or ""
        if options.judgements is not None:
            judge = judging.by_file(options.judgements, judging.waiting(document, only, again=options.again))
        elif options.function is not None:
            judge = judging.by_function(options.function, options.folder)
        else:
            judge = judging.by_official(document)
        paths: list[Path] = []

        def save(document: ResultDocument) -> None:
            paths[:] = report.write(document, options.folder)

        outcome = judging.judge_cells(
            options.folder, document, judge, save, named=options.judge, only=only, again=options.again
        )
    for one in outcome.found:
        options.say(f"{one.cell}: {one.metric} {one.value:.2f}, judged by {options.judge}")
    for line in outcome.problems:
        options.problem(line)
    for line in outcome.notes:
        options.say(line)
    if paths:
        options.say(written(*paths))
    rows = [dataclasses.asdict(one) for one in outcome.found]
    options.document({"judged": rows, "judge": options.judge, "problems": outcome.problems, "notes": outcome.notes})
    return SOME_FAILED if outcome.problems else DONE
