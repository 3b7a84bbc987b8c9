"""Tables that compare rows with vanilla on the same samples: differences with intervals, and flipped samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evals.report.columns import task_name
from evals.report.rows import TableRow, rows_of, tasks_of
from evals.report.tables import Entry, Sheet
from evals.report.units import MISSING, fixed
from evals.store.result_document import ResultDocument
from evals.tasks.registry import known_tasks

# Follows a significant difference.
SIGNIFICANT = " *"


def difference_sheet(document: ResultDocument) -> Sheet | None:
    """The difference of each row from vanilla in each task; None if nothing was compared."""
    return _sheet(document, "Differences from vanilla, with 95 % intervals", difference, ())


def flip_sheet(document: ResultDocument) -> Sheet | None:
    """Per row and task: samples gained and lost, and the share of equal answers. Then the tasks' own statistics."""
    extra = tuple(
        (f"{task.title} {heading}", _stat(task.name, name))
        for task in known_tasks(tasks_of(document))
        for name, heading in task.stat_titles
    )
    return _sheet(document, "Flips against vanilla: gained, lost, same answer", flips, extra)


def difference(row: TableRow, task: str) -> str:
    """For example: -4.2 [-6.8, -1.6] *"""
    against = row.against(task)
    if not against:
        return MISSING
    low, high = against["interval"]
    mark = SIGNIFICANT if row.significant(task) else ""
    digits = 3 if task in row.own_scale and max(abs(low), abs(high)) <= 1 else 1
    return f"{against['difference']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]{mark}"


def flips(row: TableRow, task: str) -> str:
    """For example: +12 -33, 94 %. Only the share of equal answers if there are no flips (`TableRow.flips`)."""
    against = row.against(task)
    if not against:
        return MISSING
    known = row.flips(task)
    return ("" if known is None else f"+{known[0]} -{known[1]}, ") + f"{against['loyalty']:.0f} %"


def _stat(task: str, name: str) -> Callable[[TableRow], str]:
    def shown(row: TableRow) -> str:
        stats: Mapping[str, Any] = row.stats.get(task) or {}
        return fixed(stats.get(name))

    return shown


def _sheet(
    document: ResultDocument,
    title: str,
    show: Callable[[TableRow, str], str],
    extra: tuple[tuple[str, Callable[[TableRow], str]], ...],
) -> Sheet | None:
    rows, tasks = [row for row in rows_of(document) if row.stats], tasks_of(document)
    if not any("against" in stats for row in rows for stats in row.stats.values()):
        return None
    sections: dict[str, list[tuple[Entry, ...]]] = {}
    for row in rows:
        texts = [row.model, row.label, *(show(row, task) for task in tasks)]
        sections.setdefault(row.model, []).append(tuple(map(Entry, [*texts, *(told(row) for _, told in extra)])))
    headers = ("Model", "Method", *map(task_name, tasks), *(header for header, _ in extra))
    return Sheet(title, headers, tuple((model, tuple(lines)) for model, lines in sections.items()))
