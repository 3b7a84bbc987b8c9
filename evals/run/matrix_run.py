"""Runs a whole matrix, from its file to its tables, for `run`, `retry`, `ablate` and `analyze --search`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import yaml

from evals.matrix.schema import Cell, Matrix, load_matrix
from evals.store.kept_matrix import keep
from evals.store.lock import TABLES, InUse, locked
from evals.store.result_document import ResultDocument
from hidrop.atomic_file import write_atomically
from hidrop.devices import pick_device
from hidrop.errors import CannotWrite, UserError

# Seconds that a run with --share waits for another one that writes the tables, and for the others to end.
WRITING, ENDING = 300.0, 2.0


@dataclass(frozen=True)
class RunOptions:
    """A user's options for a run. An option that is None takes the matrix's value.

    only: a pattern on model/method/task. workers: threads that prepare images. force: run finished cells again.
    keep_cells: take cells that an earlier version of the code finished. share: leave cells to other runs in the folder.
    retry: run only what failed in the last run.
    stream: the output for progress. command: the command line, for the result document.
    """

    matrix: str | Path
    out: Path | None = None
    only: str | None = None
    limit: int | None = None
    device: str | None = None
    workers: int | None = None
    force: bool = False
    keep_cells: bool = False
    share: bool = False
    retry: bool = False
    quiet: bool = False
    stream: TextIO | None = None
    command: str | None = None

    def load(self) -> tuple[Matrix, list[Cell]]:
        """The matrix, and the cells that `only` selects. Raises UserError."""
        matrix = load_matrix(self.matrix, limit=self.limit)
        return matrix, matrix.cells(only=self.only)

    def folder(self, matrix: Matrix) -> Path:
        """The results folder."""
        return self.out or Path("results") / matrix.name

    def place(self, matrix: Matrix) -> str:
        """The device, "auto" resolved."""
        return pick_device(self.device or matrix.device)


@dataclass(frozen=True)
class Finished:
    """The result document of a finished run, and the files written from it.

    unwritten: why the tables could not be written; None if they were. others: they were left to another run with
    --share, which is still at work in the folder.
    """

    document: ResultDocument
    written: list[Path]
    unwritten: str | None = None
    others: bool = False


def run_matrix(options: RunOptions) -> Finished | None:
    """Run a matrix and write its tables. None in all but the first of several processes.

    The tables are written under the lock of the run, so that no other run can come between. Raises UserError for
    anything that the user has to change, before any expensive work.
    """
    from rich.console import Console

    from evals.matrix.resolve import resolve
    from evals.matrix.validate import alone, check
    from evals.run import engine, runner
    from evals.run.failures import failed_before
    from evals.run.interrupt import gently
    from evals.run.processes import Processes
    from evals.run.progress import Progress
    from evals.run.shared_run import SharedRunner

    _check_options(options)
    matrix, cells = options.load()
    processes = Processes.join()
    if options.share and processes.count > 1:
        raise UserError("--share is for single processes: those that torchrun starts together share the cells anyway")
    alone(matrix, cells, processes.count)
    device, out = processes.device(options.place(matrix)), options.folder(matrix)
    if options.retry:
        cells = failed_before(cells, out)
    with processes.main_first():
        rows, problems = check(matrix, cells, device=device, out=out)
        if problems:
            raise UserError("\n".join(problems))
    asked = {cell.key for cell in cells}
    others = [cell for cell in matrix.cells() if cell.key not in asked]
    rows |= resolve(matrix, others)[0]  # problems of cells that this run does not need are ignored
    others = [cell for cell in others if (cell.model, cell.label) in rows]
    console = Console(file=options.stream or sys.stdout, quiet=options.quiet or not processes.main)
    with ExitStack() as stack:
        if processes.main:
            stack.enter_context(locked(out, shared=options.share, patience=WRITING if options.share else 0.0))
            keep(out, matrix.name, matrix.text)
        progress = stack.enter_context(Progress(console, len(cells), {cell.key: cell.samples for cell in cells}))
        pause = stack.enter_context(gently())
        work = partial(
            runner.run,
            matrix,
            rows=rows,
            out=out,
            device=device,
            engine=engine.default(options.workers),
            progress=progress,
            processes=processes,
            force=options.force,
            keep_cells=options.keep_cells,
            pause=pause,
        )
        if not options.share:
            document = work(cells, others=others)
            return _written(document, options) if processes.main else None
        own = work(cells, kind=SharedRunner)
    return _by_the_last(own, options, lambda: work([], others=cells + others))


def _check_options(options: RunOptions) -> None:
    """Raises UserError for options that contradict each other."""
    if options.force and options.keep_cells:
        raise UserError(
            "--force runs finished cells again, and --keep-cells takes them as they are. Give one of the two"
        )
    if options.force and options.share:
        raise UserError("--force with --share: each run would answer again what the others have finished. Give one")


def _written(document: ResultDocument, options: RunOptions) -> Finished:
    """Write the tables."""
    from evals import report

    if options.command:
        document["command"] = options.command
    try:
        return Finished(document, report.write(document, Path(document["out"])))
    except CannotWrite as error:
        return Finished(document, [], str(error))


def _by_the_last(own: ResultDocument, options: RunOptions, whole: Callable[[], ResultDocument]) -> Finished:
    """Write the tables of all finished cells (`whole`), if no other run is at work in the folder.

    Whoever ends has freed the folder before it tries this, so the last one succeeds. Of two that end at the same time,
    the second one waits for the first.
    """
    out = Path(own["out"])
    try:
        with locked(out, name=TABLES, patience=WRITING), locked(out, patience=ENDING):
            document = whole()
            known = {(failure["model"], failure["label"], failure["task"]) for failure in own["failed"]}
            more = [one for one in document["failed"] if (one["model"], one["label"], one["task"]) not in known]
            done = {(cell["model"], cell["label"], cell["task"]) for cell in document["cells"]}
            left = [one for one in own["failed"] if (one["model"], one["label"], one["task"]) not in done]
            document["failed"] = left + more  # another run may have answered what failed here
            return _written(document, options)
    except InUse:
        return Finished(own, [], others=True)


def write_matrix(content: dict[str, Any], out: Path) -> Path:
    """Write a matrix that a command has composed to matrix.yaml in its results folder. Returns the file."""
    path = out / "matrix.yaml"
    with locked(out):
        write_atomically(path, yaml.safe_dump(content, sort_keys=False))
    return path
