"""Who gave the value of a cell and on which scale, and so which cells of a task can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from evals.store.result_document import CellEntry, JudgeKind
from evals.tasks.registry import get_task

JUDGED = "judged"  # the metric of the scores from 0 to 1 by a file or a function


def judge_kind(metric: str, judge: Mapping[str, Any]) -> JudgeKind:
    """The kind of the judge in a journal's result. The first ones that were judged do not name it."""
    return cast("JudgeKind", judge.get("kind") or ("file" if metric == JUDGED else "official"))


def by_hand(cell: CellEntry) -> bool:
    """Whether the value is 100 times the mean of scores from 0 to 1, by a judge's file or function."""
    return "judge" in cell and judge_kind(cell["metric"], {"kind": cell.get("judge_kind")}) != "official"


def add_scale(cell: CellEntry) -> None:
    """Set or remove `own_scale` and `lower_is_better`, after a cell got its value.

    Raises UserError for an unknown task whose own functions gave the value.
    """
    cell.pop("own_scale", None)
    cell.pop("lower_is_better", None)
    if by_hand(cell):
        return
    task = get_task(cell["task"])
    if task.any_columns:
        cell["own_scale"] = True
    if not task.higher_is_better(cell["metric"].partition(",")[0]):
        cell["lower_is_better"] = True


def measured_by(cell: CellEntry) -> tuple[str, ...]:
    """The metric of a cell, and its judge. Cells where they differ are not compared.

    () for a first-class task, which has one rule: the name of its metric may only say that data is missing.
    """
    if "judge" in cell:
        return (cell["metric"], cell["judge"])
    return (cell["metric"],) if cell.get("own_scale") else ()
