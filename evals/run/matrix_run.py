"""Runs a whole matrix, from its file to its tables, for `run`, `retry`, `ablate` and `analyze --search`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from evals.matrix.schema import Cell, Matrix, load_matrix
from evals.store.lock import locked
from evals.store.result_document import ResultDocument
from hidrop.atomic_file import write_atomically
from hidrop.devices import pick_device
from hidrop.errors import CannotWrite, UserError


@dataclass(frozen=True)
class RunOptions:
    """A user's options for a run. An option that is None takes the matrix's value.

    only: a pattern on model/method/task. workers: threads that prepare images. force: run finished cells again.
    keep_cells: take cells that an earlier version of the code finished. retry: run only what failed in the last run.
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

    unwritten: why the tables could not be written; None if they were.
    """

    document: ResultDocument
    written: list[Path]
    unwritten: str | None = None


def run_matrix(options: RunOptions) -> Finished | None:
    """Run a matrix and write its tables. None in all but the first of several processes.

    The tables are written under the lock of the run, so that no other run can come between. Raises UserError for
    anything that the user has to change, before any expensive work.
    """
    from rich.console import Console

    from evals import report
    from evals.matrix.resolve import resolve
    from evals.matrix.validate import alone, check
    from evals.run import engine, runner
    from evals.run.failures import failed_before
    from evals.run.interrupt import gently
    from evals.run.processes import Processes
    from evals.run.progress import Progress

    if options.force and options.keep_cells:
        raise UserError(
            "--force runs finished cells again, and --keep-cells takes them as they are. Give one of the two"
        )
    matrix, cells = options.load()
    processes = Processes.join()
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
    console = Console(file=options.stream or sys.stdout, quiet=options.quiet or not processes.main)
    with ExitStack() as stack:
        if processes.main:
            stack.enter_context(locked(out))
        progress = stack.enter_context(Progress(console, len(cells), {cell.key: cell.samples for cell in cells}))
        pause = stack.enter_context(gently())
        document = runner.run(
            matrix,
            cells,
            rows,
            out,
            device=device,
            engine=engine.default(options.workers),
            progress=progress,
            others=[cell for cell in others if (cell.model, cell.label) in rows],
            processes=processes,
            force=options.force,
            keep_cells=options.keep_cells,
            pause=pause,
        )
        if not processes.main:
            return None
        if options.command:
            document["command"] = options.command
        try:
            return Finished(document, report.write(document, out))
        except CannotWrite as error:
            return Finished(document, [], str(error))


def write_matrix(content: dict[str, Any], out: Path) -> Path:
    """Write a matrix that a command has composed to matrix.yaml in its results folder. Returns the file."""
    path = out / "matrix.yaml"
    with locked(out):
        write_atomically(path, yaml.safe_dump(content, sort_keys=False))
    return path
