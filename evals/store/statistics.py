"""Statistics of rows and of their differences: intervals, paired tests and flips.

- Intervals come from a bootstrap over *images*: questions about one image are not independent, so images are drawn.
- A row is compared with vanilla on the same draws of the same samples: the interval is that of the paired difference.
- McNemar's exact test asks whether as many samples went from right to wrong as from wrong to right. Holm's procedure
  corrects for all comparisons of a table.

A task's value is a function of sums over its units (`evals.tasks.base.Statistic`), so one set of draws serves all rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.tasks.base import RIGHT, Sample, Statistic
from evals.tasks.registry import get_task

LEVEL = 0.95
REPEATS = 10_000
CHUNK = 500  # draws at a time


def clustered(samples: Sequence[Sample], of: Statistic) -> dict[Hashable, np.ndarray]:
    """The sums of each image, in the order of first appearance. A unit belongs to the image of its first sample."""
    units: dict[Hashable, list[Sample]] = {}
    for sample in samples:
        units.setdefault(of.unit(sample), []).append(sample)
    images: dict[Hashable, np.ndarray] = {}
    for rows in units.values():
        numbers = np.asarray(of.counts(rows), dtype=np.float64)
        image = rows[0]["image_key"]
        images[image] = images[image] + numbers if image in images else numbers
    return images


def value_of(task: str, protocol: str, samples: Sequence[Sample]) -> float:
    """The task's value (0-100), computed from the scores of its samples."""
    of = get_task(task).statistic(protocol, samples)
    return float(of.value(np.sum(list(clustered(samples, of).values()), axis=0)))


def drawn(counts: np.ndarray, *, repeats: int = REPEATS, seed: int = 0) -> np.ndarray:
    """Bootstrap sums: (images, numbers) to (repeats, numbers). Each draw takes as many images as there are."""
    images = len(counts)
    generator = np.random.default_rng(seed)
    parts = []
    for start in range(0, repeats, CHUNK):
        size = min(CHUNK, repeats - start)
        weights = generator.multinomial(images, np.full(images, 1 / images), size=size)
        parts.append(weights.astype(np.float64) @ counts)
    return np.concatenate(parts)


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of bootstrap values (percentile interval)."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value of the split of the changed samples, if gains and losses are equally likely.

    1 if no sample changed.
    """
    from scipy.stats import binomtest

    changed = gained + lost
    return 1.0 if changed == 0 else float(binomtest(gained, changed, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given. They are at most 1, and keep the order of the p-values."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, worst = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = worst
    return adjusted


@dataclass(frozen=True)
class Flips:
    """The units that went from wrong to right (`gained`) and from right to wrong (`lost`), compared with vanilla.

    `loyalty`: the share of samples, in percent, with the same reading as vanilla's.
    """

    gained: int
    lost: int
    loyalty: float

    @classmethod
    def between(cls, own: Sequence[Sample], base: Sequence[Sample], of: Statistic) -> Flips:
        """Raises ValueError when the two rows have different samples."""
        readings = {s["doc_id"]: s["reading"] for s in base}
        if readings.keys() != {s["doc_id"] for s in own}:
            raise ValueError("the two rows have different samples")
        mine, theirs = right(own, of), right(base, of)
        gained = sum(hit and not theirs[unit] for unit, hit in mine.items())
        lost = sum(theirs[unit] and not hit for unit, hit in mine.items())
        same = sum(readings[s["doc_id"]] == s["reading"] for s in own)
        return cls(gained, lost, 100 * same / len(own))


def right(samples: Sequence[Sample], of: Statistic) -> dict[Hashable, bool]:
    """Which units are right. A unit is right if all its samples are."""
    units: dict[Hashable, bool] = {}
    for sample in samples:
        unit = of.unit(sample)
        units[unit] = units.get(unit, True) and sample["score"] >= RIGHT
    return units


@dataclass(frozen=True)
class Row:
    """A row's samples in one task, and the name of the row that it is compared with (None: it is not compared)."""

    samples: Sequence[Sample]
    base: Hashable | None


def task_stats(task: str, protocol: str, rows: Mapping[Any, Row]) -> dict[Any, dict[str, Any]]:
    """The `stats` of each row of one task: its interval, and difference, interval, p-value and flips against its base.

    `adjust` adds `p_holm` later, for the whole table. Rows with the same samples share their draws. A row is not
    compared with one that has other samples (of a failed run that was cut short).
    """
    asked = get_task(task)
    found: dict[Hashable, dict[str, Any]] = {}
    groups: dict[tuple[Hashable, ...], list[Hashable]] = {}
    per_image: dict[Hashable, dict[Hashable, np.ndarray]] = {}
    for name, row in rows.items():
        of = asked.statistic(protocol, row.samples)
        per_image[name] = clustered(row.samples, of)
        groups.setdefault((*per_image[name], len(row.samples)), []).append(name)
    for names in groups.values():
        of = asked.statistic(protocol, rows[names[0]].samples)
        table = np.stack([np.stack(list(per_image[name].values())) for name in names], axis=1)
        sums = drawn(table.reshape(len(table), -1)).reshape(REPEATS, len(names), -1)
        values = {name: of.value(sums[:, place]) for place, name in enumerate(names)}
        exact = {name: float(of.value(table[:, place].sum(0))) for place, name in enumerate(names)}
        for name in names:
            found[name] = {"interval": list(interval(values[name])), **asked.row_stats(rows[name].samples)}
            base = rows[name].base
            if base in values and base != name:
                flips = Flips.between(rows[name].samples, rows[base].samples, of)
                found[name]["against"] = {
                    "difference": exact[name] - exact[base],
                    "interval": list(interval(values[name] - values[base])),
                    "p": mcnemar(flips.gained, flips.lost),
                    "gained": flips.gained,
                    "lost": flips.lost,
                    "loyalty": flips.loyalty,
                }
    return found


def adjust(stats: Sequence[dict[str, Any]]) -> None:
    """Add Holm's `p_holm` to each comparison, corrected for all comparisons of a table."""
    compared = [one["against"] for one in stats if "against" in one]
    for against, p in zip(compared, holm([against["p"] for against in compared]), strict=True):
        against["p_holm"] = p
