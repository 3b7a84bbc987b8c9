"""Merge rows that differ only in the seed: mean of their scores and half of their range."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from evals.report.rows import Score, TableRow, mean


def together(rows: Iterable[TableRow]) -> list[TableRow]:
    """One row for all seeds of a group, at the position of the first seed."""
    groups: dict[tuple[str, str], list[TableRow]] = {}
    for row in rows:
        groups.setdefault((row.model, row.group), []).append(row)
    return [_joined(group) if len(group) > 1 else group[0] for group in groups.values()]


def _joined(rows: Sequence[TableRow]) -> TableRow:
    tasks = rows[0].scores
    return replace(
        rows[0],
        label=rows[0].group,
        seeds=len(rows),
        scores={task: _mean([row.scores[task] for row in rows]) for task in tasks},
        spread={task: _half_range([row.scores[task] for row in rows]) for task in tasks},
        significant_in_every_seed=frozenset(task for task in tasks if all(row.significant(task) for row in rows)),
        stats={},  # per seed; the sheets of differences have one line per seed
        warnings={
            task: notes
            for task in tasks
            if (notes := tuple(dict.fromkeys(note for row in rows for note in row.warnings.get(task, ()))))
        },
        groups={name: mean(row.groups.get(name) for row in rows) for name in rows[0].groups},
        percent_of_vanilla=mean(row.percent_of_vanilla for row in rows),
        timing_failed=any(row.timing_failed for row in rows),
    )


def _mean(scores: list[Score]) -> Score:
    if words := [score for score in scores if isinstance(score, str)]:
        return "failed" if "failed" in words else words[0]
    return mean(score if isinstance(score, float) else None for score in scores)


def _half_range(scores: list[Score]) -> float | None:
    known = [score for score in scores if isinstance(score, float)]
    return (max(known) - min(known)) / 2 if len(known) == len(scores) else None
