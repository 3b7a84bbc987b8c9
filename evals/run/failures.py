"""Records of cells and timings that failed. A record is kept until the cell or the timing succeeds."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from evals.matrix.schema import Cell
from evals.store.cell_files import slug
from evals.store.run_command import run_command
from hidrop.errors import CannotWrite, UserError, in_a_line, real_cause


@dataclass(frozen=True)
class Failure:
    """An error: one line for the table, and the traceback for its own file ("" if the cell was not run at all).

    ends_run: no later cell can be stored either, as on a full disk.
    """

    reason: str
    traceback: str
    ends_run: bool = False

    @classmethod
    def of(cls, error: Exception) -> Failure:
        cause = real_cause(error)
        reason = next(iter(str(cause).splitlines()), "") if isinstance(cause, UserError) else in_a_line(cause)
        return cls(reason, "".join(traceback.format_exception(error)), isinstance(cause, CannotWrite))

    def of_the_rest(self) -> Failure:
        """The failure of a cell that was not run because of this one."""
        return Failure(f"not run: {self.reason.removeprefix('not run: ')}", "", True)


def failure_file(out: Path, key: str) -> Path:
    """The traceback of a failed cell ("model/label/task") or of a model's timing ("model/profile")."""
    return out / "failures" / f"{slug(key)}.txt"


def failed_before(cells: list[Cell], out: Path) -> list[Cell]:
    """The cells that failed in the last run, or whose model's timings failed. Raises UserError if there are none."""
    found = [
        cell
        for cell in cells
        if failure_file(out, cell.key).exists() or failure_file(out, f"{cell.model}/profile").exists()
    ]
    if not found:
        raise UserError(f"{out}: nothing failed in the last run. `{run_command(out)}` runs what is missing")
    return found
