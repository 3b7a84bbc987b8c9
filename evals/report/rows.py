"""From cells to rows: one row per model x method x budget x seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hidrop.budget import budget_tokens, parse_budget

# A difference with a smaller p-value, corrected for all of a table's, is called significant.
ALPHA = 0.05
Score = float | Literal["failed"] | None


@dataclass(frozen=True)
class Row:
    """One model with one method at one budget, over all tasks. None: not measured."""

    model: str
    method: str
    label: str
    trained: bool
    budget: str | None
    average_tokens: float | None
    share: float | None
    kept: int | None
    entering: tuple[int, ...]
    scores: dict[str, Score]
    percent_of_vanilla: float | None
    flops: float | None
    paper_macs: float | None
    kv_bytes: float | None
    # The smallest batch's entry of the document's `profiles`, empty when nothing was timed.
    profile: Mapping[str, Any]
    timing_failed: bool
    # The label without its seed: rows that share it differ in nothing else. See seeds.py for the two below.
    group: str
    seeds: int = 1
    spread: Mapping[str, float | None] = field(default_factory=dict)
    # Of each task: the cell's `stats` (see evals.store.statistics.task_stats), and what looks wrong about its answers.
    stats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reading: str = "average"  # what the document's budgets mean: see hidrop.budget.solve
    image_tokens: int | None = None

    @property
    def visual_tokens(self) -> int | None:
        """Visual tokens of one image without reduction; with anyres of the largest."""
        if self.image_tokens:
            return self.image_tokens
        if not self.average_tokens or not self.share:
            return max(self.entering, default=None)
        return round(self.average_tokens / self.share)

    @property
    def architecture(self) -> tuple[int, int] | None:
        """Layers and visual tokens: rows that differ in them do not belong in one table. None: unknown."""
        visual = self.visual_tokens
        return (len(self.entering), visual) if self.entering and visual else None

    @property
    def nominal_tokens(self) -> float | None:
        """The budget as a number of visual tokens; without a stated one what the row has of them."""
        if self.budget is None or self.visual_tokens is None:
            return self.average_tokens if self.reading == "average" or self.kept is None else self.kept
        return budget_tokens(parse_budget(self.budget), self.visual_tokens)

    def significant(self, task: str) -> bool:
        """Whether the row differs from vanilla by more than chance, all comparisons of the table considered."""
        against = self.stats.get(task, {}).get("against") or {}
        return against.get("p_holm", 1.0) < ALPHA

    def millis(self, what: str, statistic: str = "median") -> float | None:
        """A timing of this row in milliseconds: `what` is ttft, prefill or decode."""
        return number((self.profile.get(f"{what}_ms") or {}).get(statistic))


def tasks_of(document: Mapping[str, Any]) -> list[str]:
    """The tasks that appear in the document, in the order of their first appearance."""
    entries = [*document.get("cells", ()), *document.get("failed", ())]
    return list(dict.fromkeys(entry["task"] for entry in entries if entry.get("task")))


def rows_of(document: Mapping[str, Any]) -> list[Row]:
    """Every row of the document, in the order of its first appearance. What failed makes rows as well."""
    tasks, at_profile = tasks_of(document), sizes_are_of_profile(document)
    cells, profiles, failed = (_by_row(document, kind) for kind in ("cells", "profiles", "failed"))
    rows = []
    for key in {**cells, **profiles, **failed}:
        own, errors = cells.get(key, []), failed.get(key, [])
        profile = min(profiles.get(key, []), key=lambda p: p["batch"], default={})
        # What a row is, from whichever knows it: a failed row has no cell, a row without tasks only a profile.
        known: dict[str, Any] = {}
        for entry in (*reversed(errors), profile, *reversed(own)):
            known |= entry
        failed_tasks = {entry.get("task") for entry in errors}
        scores: dict[str, Score] = {task: "failed" if task in failed_tasks else None for task in tasks}
        scores |= {cell["task"]: number(cell.get("value")) for cell in own}
        percents = {cell["task"]: number(cell.get("percent_of_vanilla")) for cell in own}
        source = [profile] if profile and (at_profile or not own) else own
        rows.append(
            Row(
                model=key[0],
                method=known.get("method", key[1]),
                label=key[1],
                trained=bool(known.get("trained")),
                budget=known.get("budget"),
                average_tokens=_counted(own, known, "average_tokens", _average(known)),
                share=_counted(own, known, "share"),
                kept=known.get("kept"),
                entering=tuple(known.get("entering") or ()),
                scores=scores,
                percent_of_vanilla=mean(percents.get(task) for task in tasks),
                flops=mean(number(entry.get("flops")) for entry in source),
                paper_macs=number(known.get("paper_macs")),
                kv_bytes=mean(number(entry.get("kv_bytes")) for entry in source),
                profile=profile,
                timing_failed=None in failed_tasks,
                group=known.get("group") or key[1],
                stats={cell["task"]: cell["stats"] for cell in own if cell.get("stats")},
                warnings={cell["task"]: tuple(cell["warnings"]) for cell in own if cell.get("warnings")},
                reading=document.get("budget_reading") or "average",
                image_tokens=known.get("image_tokens"),
            )
        )
    return rows


def sizes_are_of_profile(document: Mapping[str, Any]) -> bool:
    """Whether operations and KV bytes are for the profile's prompt: where every row has one, so that rows compare.

    Otherwise they are the mean over the tasks' prompts.
    """
    profiles = _by_row(document, "profiles")
    return bool(profiles) and set(_by_row(document, "cells")) <= set(profiles)


def _by_row(document: Mapping[str, Any], kind: str) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in document.get(kind, ()):
        found.setdefault((entry["model"], label_of(entry)), []).append(entry)
    return found


def label_of(entry: Mapping[str, Any]) -> str:
    """The row an entry belongs to: its label where it has one, else its method's name."""
    return entry.get("label") or entry.get("method") or "?"


def _counted(
    own: list[Mapping[str, Any]], known: Mapping[str, Any], key: str, otherwise: float | None = None
) -> float | None:
    """The mean over the tasks, whose prompts may differ in it; without any, what is known of the row."""
    return mean(number(cell.get(key)) for cell in own) if own else number(known.get(key, otherwise))


def _average(entry: Mapping[str, Any]) -> float | None:
    entering = entry.get("entering")
    return sum(entering) / len(entering) if entering else None


def number(value: Any) -> float | None:
    """A finite number, or None for everything else a document may hold there."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean when every value is there; a mean over some of the tasks would not be comparable."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None
