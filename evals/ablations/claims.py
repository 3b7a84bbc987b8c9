"""Decide claims from the trained models: the difference between two variants, seed by seed, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import NamedTuple, cast

from evals.ablations.document import ClaimEntry, JudgedEntry, VariantEntry, Verdict
from evals.ablations.runs import REFERENCE
from evals.ablations.spec import Claim, Study
from evals.store.result_document import ResultDocument

LEVEL = 0.95


@dataclass(frozen=True)
class Measured:
    """One variant. by_seed: mean over the tasks, in % of the reference; tasks: mean score over the seeds."""

    name: str
    average_tokens: float
    by_seed: dict[int, float]
    tasks: dict[str, float]

    @property
    def mean(self) -> float:
        return mean(self.by_seed.values())

    @property
    def half_width(self) -> float | None:
        """Half of the 95 % t-interval of the mean over seeds; None for one seed."""
        return half_width(list(self.by_seed.values()))

    def entry(self) -> VariantEntry:
        """The variant's entry in ablations.json."""
        return {
            "name": self.name,
            "average_tokens": self.average_tokens,
            "by_seed": {str(seed): mean for seed, mean in self.by_seed.items()},
            "tasks": self.tasks,
            "half_width": self.half_width,
        }


class TaskScore(NamedTuple):
    """A cell's value, the value in % of the reference, and the cell's average tokens."""

    value: float
    percent: float
    average_tokens: float


@dataclass(frozen=True)
class Judged:
    """A claim with our numbers. difference: better - worse; half_width: half of its 95 % interval."""

    claim: Claim
    better: float
    worse: float
    seeds: int
    difference: float
    half_width: float | None

    @property
    def verdict(self) -> Verdict:
        """The sign of the whole interval decides. One seed or an interval that contains 0 decides nothing."""
        if self.half_width is None or abs(self.difference) <= self.half_width:
            return "not decidable"
        return "reproduced" if self.difference > 0 else "not reproduced"

    def entry(self) -> JudgedEntry:
        """The claim's entry in ablations.json."""
        return {
            "claim": cast(ClaimEntry, self.claim.model_dump(mode="json")),
            "better": self.better,
            "worse": self.worse,
            "seeds": self.seeds,
            "difference": self.difference,
            "half_width": self.half_width,
            "verdict": self.verdict,
        }


def half_width(values: Sequence[float]) -> float | None:
    """Half of the t-interval of the mean at LEVEL; None for fewer than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))


def measured(study: Study, document: ResultDocument) -> dict[str, Measured]:
    """The variants and untrained rows with results for every task, by name."""
    cells: dict[tuple[str, str], dict[str, TaskScore]] = {}
    for cell in document["cells"]:
        value, percent = cell["value"], cell["percent_of_vanilla"]
        if value is not None and percent is not None:
            score = TaskScore(value, percent, cell["average_tokens"])
            cells.setdefault((cell["model"], cell["label"]), {})[cell["task"]] = score
    whole = {key: found for key, found in cells.items() if found.keys() >= study.evaluation.tasks.keys()}
    found = {}
    for name in [*study.variants, *study.untrained]:
        # An untrained row has no seeds: the same row is compared with every seed.
        keys = {
            seed: (f"{name}-s{seed}", "trained") if name in study.variants else (REFERENCE, name)
            for seed in study.seeds
        }
        rows = {seed: whole[key] for seed, key in keys.items() if key in whole}
        if rows:
            found[name] = _measured(name, rows, list(study.evaluation.tasks))
    return found


def _measured(name: str, rows: Mapping[int, Mapping[str, TaskScore]], tasks: Sequence[str]) -> Measured:
    return Measured(
        name,
        next(iter(next(iter(rows.values())).values())).average_tokens,
        {seed: mean(row[task].percent for task in tasks) for seed, row in rows.items()},
        {task: mean(row[task].value for row in rows.values()) for task in tasks},
    )


def judged(study: Study, found: Mapping[str, Measured]) -> list[Judged]:
    """The claims with two measured sides, over the seeds that both sides have."""
    verdicts = []
    for claim in study.claims:
        better, worse = found.get(claim.better), found.get(claim.worse)
        seeds = [s for s in study.seeds if better and worse and s in better.by_seed and s in worse.by_seed]
        if better is None or worse is None or not seeds:
            continue
        pairs = [(better.by_seed[seed], worse.by_seed[seed]) for seed in seeds]
        apart = [a - b for a, b in pairs]
        ours = mean(a for a, _ in pairs), mean(b for _, b in pairs)
        verdicts.append(Judged(claim, *ours, len(seeds), mean(apart), half_width(apart)))
    return verdicts
