"""Cells and timings that went wrong: what is kept of the error, and where, until they have been run again."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from evals.matrix.schema import Cell
from evals.store.journal import slug
from hidrop.errors import UserError
from hidrop.program import program


@dataclass(frozen=True)
class Failure:
    """What went wrong: one line for the table, and the traceback that has the rest."""

    reason: str
    traceback: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        first = next(iter(str(error).splitlines()), "")
        reason = first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
        return cls(reason, "".join(traceback.format_exception(error)))


def failure_file(out: Path, key: str) -> Path:
    """The traceback of a failed cell ("model/label/task") or of a model's timing ("model/profile")."""
    return out / "failures" / f"{slug(key)}.txt"


def failed_before(cells: list[Cell], out: Path) -> list[Cell]:
    """Those of `cells` that failed when they ran last, or whose model's timings did.

    Raises UserError when nothing failed.
    """
    found = [
        cell
        for cell in cells
        if failure_file(out, cell.key).exists() or failure_file(out, f"{cell.model}/profile").exists()
    ]
    if not found:
        raise UserError(f"{out}: nothing failed there. `{program()} --matrix` finishes what is missing")
    return found
