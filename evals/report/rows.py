"""Convert cells to table rows: one row per model x method x budget x seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from evals.profiling.record import request_ms
from evals.store.result_document import (
    CellEntry,
    CellStats,
    FailureEntry,
    ProfileEntry,
    ResultDocument,
    VanillaComparison,
)
from hidrop.budget import budget_tokens, parse_budget

# A difference is significant if its p-value, corrected for all comparisons of the table, is smaller.
ALPHA = 0.05
# A number, or why there is none: "failed", "to submit", "to judge".
Score = float | str | None
TimeField = Literal["ttft_ms", "prefill_ms", "decode_ms"]
TimedPart = Literal["prefill", "ttft", "request"]
TimeStatistic = Literal["median", "p95", "min"]
AnyEntry = TypeVar("AnyEntry", CellEntry, ProfileEntry, FailureEntry)

PER_MILLE = 1000


@dataclass(frozen=True)
class TableRow:
    """One model with one method at one budget and seed, over all tasks. None: not measured."""

    model: str
    method: str
    label: str
    trained: bool
    budget: str | None
    average_tokens: float
    # The mean of the samples' shares. `share_of_total`: of all samples' tokens together, which large images dominate.
    share: float | None
    share_of_total: float | None
    kept: int | None
    entering: tuple[int, ...]
    scores: dict[str, Score]
    percent_of_vanilla: float | None
    flops: float | None
    paper_macs: float | None
    kv_bytes: float | None
    # The row's entry in the document's `profiles` with the smallest batch; None if it was not timed.
    profile: ProfileEntry | None
    timing_failed: bool
    # The label without its seed: rows of one group differ only in the seed. seeds.py sets the three fields below.
    group: str
    seeds: int = 1
    spread: Mapping[str, float | None] = field(default_factory=dict)
    significant_in_every_seed: frozenset[str] = frozenset()
    # By task: the cell's `stats`, and its warnings.
    stats: Mapping[str, CellStats] = field(default_factory=dict)
    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reading: str = "average"  # meaning of the document's budgets: see hidrop.budget.solve
    image_tokens: int | None = None
    own_scale: frozenset[str] = frozenset()  # tasks whose score is on lmms-eval's scale of the task
    lower_is_better: frozenset[str] = frozenset()  # tasks in which a smaller score is better
    groups: Mapping[str, float | None] = field(default_factory=dict)  # the mean score over a group's tasks
    nominal: bool = False  # nobody stated the image that `image_tokens` is of
    own_sizes: bool = False  # each image has its own number of visual tokens

    @property
    def visual_tokens(self) -> int:
        """Visual tokens of one image without reduction; where images differ, of the reference image."""
        if self.image_tokens:
            return self.image_tokens
        return round(self.average_tokens / self.share) if self.share else max(self.entering)

    @property
    def architecture(self) -> tuple[int, int | None]:
        """Layers, and visual tokens if every image has so many or somebody stated them. One table has rows of one."""
        return len(self.entering), None if self.nominal else self.visual_tokens

    @property
    def budget_tokens_of(self) -> int:
        """The visual tokens that `nominal_tokens` is of: those of a stated image, else a thousand."""
        return PER_MILLE if self.nominal else self.visual_tokens

    @property
    def nominal_tokens(self) -> float:
        """The budget as a number of visual tokens; without a stated budget, the row's own tokens."""
        if self.nominal and self.budget is None:
            return PER_MILLE * (self.share or 0)
        if self.budget is None:
            return self.average_tokens if self.reading == "average" or self.kept is None else self.kept
        return budget_tokens(parse_budget(self.budget), self.budget_tokens_of)

    def significant(self, task: str) -> bool:
        """Whether the row's difference from vanilla is significant, see ALPHA; with several seeds, that of each."""
        if task in self.significant_in_every_seed:
            return True
        against = self.against(task)
        p = None if against is None else against["p_holm"]
        return p is not None and p < ALPHA

    def against(self, task: str) -> VanillaComparison | None:
        """The comparison with vanilla in a task; None if there is no comparison."""
        stats = self.stats.get(task)
        return None if stats is None else stats.get("against")

    def flips(self, task: str) -> tuple[int, int] | None:
        """The samples gained and lost against vanilla. None if they were not counted, or if smaller is better.

        Flips count scores that cross 0.5 upwards as gained, which is no gain if smaller is better.
        """
        against = self.against(task)
        if against is None or task in self.lower_is_better or against["gained"] is None or against["lost"] is None:
            return None
        return against["gained"], against["lost"]

    def millis(self, time: TimeField, statistic: TimeStatistic = "median") -> float | None:
        """A timing of this row in milliseconds; None if it was not timed."""
        return None if self.profile is None else number(self.profile[time][statistic])

    def milliseconds_of(self, part: TimedPart) -> float | None:
        """The median of a part in milliseconds; None if it was not timed.

        request: one with the profile's output tokens, from the medians of the first and of each further token.
        """
        if part == "prefill":
            return self.millis("prefill_ms")
        first, further = self.millis("ttft_ms"), self.millis("decode_ms")
        if part == "ttft" or self.profile is None or first is None or further is None:
            return first
        return float(request_ms(first, further, max(1, self.profile["new_tokens"])))


def tasks_of(document: ResultDocument) -> list[str]:
    """The document's tasks, in order of first appearance."""
    tasks = [cell["task"] for cell in document["cells"]] + [failure["task"] for failure in document["failed"]]
    return [task for task in dict.fromkeys(tasks) if task is not None]


def rows_of(document: ResultDocument) -> list[TableRow]:
    """Every row of the document, in order of first appearance, including rows that failed or were only timed."""
    tasks, at_profile, without = tasks_of(document), sizes_are_of_profile(document), without_percent(document)
    cells, profiles, failed = (
        _by_row(document["cells"]),
        _by_row(document["profiles"]),
        _by_row(document["failed"]),
    )
    rows = []
    for key in dict.fromkeys([*cells, *profiles, *failed]):
        own, errors = cells.get(key, []), failed.get(key, [])
        profile = min(profiles.get(key, []), key=lambda p: p["batch"], default=None)
        # Merge the fields of all entries: a failed row can lack a cell, a row that was only timed has no other entry.
        known: dict[str, Any] = {}
        entries: list[Any] = [*reversed(errors), profile or {}, *reversed(own)]
        for entry in entries:
            known |= entry
        failed_tasks = {failure["task"] for failure in errors}
        scores: dict[str, Score] = {task: "failed" if task in failed_tasks else None for task in tasks}
        scores |= {cell["task"]: cell.get("unscored") or number(cell["value"]) for cell in own}
        percents = {cell["task"]: number(cell["percent_of_vanilla"]) for cell in own}
        share = mean(cell["share"] for cell in own) if own else known.get("share")
        source = [profile] if profile and (at_profile or not own) else own
        rows.append(
            TableRow(
                model=key[0],
                method=known["method"],
                label=key[1],
                trained=bool(known.get("trained")),
                budget=known.get("budget"),
                average_tokens=_average_tokens(own, known),
                share=share,
                share_of_total=mean(cell.get("share_of_total", cell["share"]) for cell in own) if own else share,
                kept=known.get("kept"),
                entering=tuple(known["entering"]),
                scores=scores,
                percent_of_vanilla=mean(percents.get(task) for task in tasks if task not in without),
                own_scale=frozenset(cell["task"] for cell in own if cell.get("own_scale")),
                lower_is_better=frozenset(cell["task"] for cell in own if cell.get("lower_is_better")),
                groups={
                    name: mean(_value(scores.get(task)) for task in members)
                    for name, members in document.get("groups", {}).items()
                },
                flops=mean(number(entry["flops"]) for entry in source),
                paper_macs=number(known.get("paper_macs")),
                kv_bytes=mean(number(entry["kv_bytes"]) for entry in source),
                profile=profile,
                timing_failed=None in failed_tasks,
                group=known.get("group") or key[1],
                stats={cell["task"]: cell["stats"] for cell in own if "stats" in cell},
                warnings={cell["task"]: tuple(cell["warnings"]) for cell in own if cell["warnings"]},
                reading=document["budget_reading"],
                image_tokens=known.get("image_tokens"),
                nominal=known.get("nominal", False),
                own_sizes=_own_sizes(known, own),
            )
        )
    return rows


def _own_sizes(known: Mapping[str, Any], own: list[CellEntry]) -> bool:
    """Whether a row's model is of a family whose images differ in their tokens, as far as its entries show it."""
    return known.get("nominal", False) or any("share_of_total" in cell or "pixels" in cell for cell in own)


def without_percent(document: ResultDocument) -> set[str]:
    """The tasks that have no percentage of vanilla: not scored here, or smaller values are better."""
    return {cell["task"] for cell in document["cells"] if "unscored" in cell or cell.get("lower_is_better")}


def tasks_in_percent(document: ResultDocument) -> list[str]:
    """The tasks that count for % of vanilla, in order of first appearance."""
    without = without_percent(document)
    return [task for task in tasks_of(document) if task not in without]


def _value(score: Score) -> float | None:
    return score if isinstance(score, float) else None


def sizes_are_of_profile(document: ResultDocument) -> bool:
    """Whether operations and KV bytes are for the profile's prompt, which requires that every row has a profile.

    Otherwise they are the mean over the tasks' prompts.
    """
    profiles = _by_row(document["profiles"])
    return bool(profiles) and set(_by_row(document["cells"])) <= set(profiles)


def _by_row(entries: Iterable[AnyEntry]) -> dict[tuple[str, str], list[AnyEntry]]:
    found: dict[tuple[str, str], list[AnyEntry]] = {}
    for entry in entries:
        found.setdefault((entry["model"], entry["label"]), []).append(entry)
    return found


def _average_tokens(own: list[CellEntry], known: Mapping[str, Any]) -> float:
    """The mean over the tasks, whose prompts can differ; without cells, from the row's other entries."""
    if own:
        return sum(cell["average_tokens"] for cell in own) / len(own)
    return known.get("average_tokens", sum(known["entering"]) / len(known["entering"]))


def number(value: Any) -> float | None:
    """The value as a float if it is a finite number, else None."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def mean(values: Iterable[float | None]) -> float | None:
    """The mean if no value is missing, else None: a mean over some of the tasks would not be comparable."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None
