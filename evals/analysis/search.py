"""Score a suggested schedule and its neighbors without training, on samples that the probes do not use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from evals.report.figure_style import pareto
from evals.store.result_document import CellEntry, ResultDocument
from hidrop.analysis.suggest import counted
from hidrop.geometry import Geometry
from hidrop.hidrop import HiDrop

HEADERS = ("schedule", "tokens", "right %", "of unreduced %", "GFLOP", "front")
SUGGESTED, UNREDUCED = "suggested", "vanilla"


def neighbours(
    found: HiDrop, geometry: Geometry, budget: float, most: int, *, published: bool = False
) -> dict[str, HiDrop]:
    """The schedule and at most `most` neighbors at the same budget, each with one layer moved by one.

    `published`: see `counted`.
    """
    chosen = {SUGGESTED: found}
    for name, changed in _moved(found):
        if len(chosen) > most:
            break
        try:
            layers = changed.inject, changed.filters, changed.exit
            chosen[name] = counted(*layers, geometry, budget, published=published)
        except ValueError:  # invalid layers, or a budget that they cannot meet
            continue
    return chosen


def _moved(found: HiDrop) -> Iterator[tuple[str, HiDrop]]:
    for step in (-1, 1):
        yield f"inject-{found.inject + step}", replace(found, inject=found.inject + step)
    for step in (1, -1):
        yield f"exit-{found.exit + step}", replace(found, exit=found.exit + step)
    for place, layer in enumerate(found.filters):
        for step in (-1, 1):
            filters = (*found.filters[:place], layer + step, *found.filters[place + 1 :])
            if list(filters) == sorted(set(filters)):
                yield f"filters-{'-'.join(map(str, filters))}", replace(found, filters=filters)


def matrix(
    base: Mapping[str, Any], schedules: Mapping[str, HiDrop], limit: int, *, share: str | None = None
) -> dict[str, Any]:
    """The matrix that scores the schedules; `base` is the matrix of the analysis.

    `share`: their budget, where numbers of tokens have no meaning for the model.
    """
    methods: dict[str, Any] = {UNREDUCED: {"name": "vanilla"}}
    for name, one in schedules.items():
        counts = {"keep": list(one.keep)} if share is None else {"budget": share}
        methods[name] = {
            "name": "hidrop",
            "inject": one.inject,
            "filters": list(one.filters),
            "exit": one.exit,
            **counts,
        }
    return {**base, "methods": methods, "limit": limit}


def table(document: ResultDocument) -> list[tuple[str, ...]]:
    """One line per schedule: tokens, mean score over the tasks, operations, and whether it is on the Pareto front."""
    rows: dict[str, list[CellEntry]] = {}
    for cell in document["cells"]:
        rows.setdefault(cell["label"], []).append(cell)
    points = {
        label: (_mean(cell["flops"] for cell in cells), _mean(cell["value"] or 0.0 for cell in cells))
        for label, cells in rows.items()
    }
    front = pareto(points.values())
    whole = points[UNREDUCED][1] if UNREDUCED in points else 0.0
    return [
        (
            label,
            f"{_mean(cell['average_tokens'] for cell in cells):.2f}",
            f"{points[label][1]:.1f}",
            f"{100 * points[label][1] / whole:.1f}" if whole else "-",
            f"{points[label][0] / 1e9:.2f}",
            "*" if points[label] in front else "",
        )
        for label, cells in rows.items()
    ]


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
