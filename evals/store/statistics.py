"""What a difference between two rows is worth: intervals, paired tests and flips.

- Intervals are by bootstrap over *images*: questions about one image are not independent, so whole images are drawn.
- A row is compared with vanilla on the same samples, drawn together: the interval is that of the paired difference.
- McNemar's test asks, exactly, whether as many samples went from right to wrong as from wrong to right; Holm's
  procedure corrects for all comparisons of a table.

A task's value is a function of sums over samples (`Statistic`), so one pass of draws serves every row of the task.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
REPEATS = 10_000
CHUNK = 500  # draws at a time
# A sample with a soft score (TextVQA) counts as right from here on.
RIGHT = 0.5

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Statistic:
    """How a task's value (0-100) follows from sums over its units (samples, or whole groups of them).

    counts: numbers of one unit, from its samples. value: from their sums, (..., numbers) to (...).
    """

    unit: Callable[[Sample], Hashable]
    counts: Callable[[Sequence[Sample]], Sequence[float]]
    value: Callable[[np.ndarray], np.ndarray]


def statistic(task: str, protocol: str, samples: Sequence[Sample]) -> Statistic:
    """That of a task's official value under a protocol; `samples` say which categories POPE has."""
    if task == "mmbench_en_dev":  # a question counts when all its rotations are right
        return Statistic(_group, lambda rows: (float(all(r["score"] >= RIGHT for r in rows)), 1.0), _mean)
    if task == "pope":
        categories = sorted({str(s["category"]) for s in samples}) if protocol == "llava" else [None]

        def counts(rows: Sequence[Sample]) -> list[float]:
            return [n for c in categories for n in _confusion([r for r in rows if c in (None, str(r["category"]))])]

        return Statistic(_doc, counts, _mean_f1)
    return Statistic(_doc, lambda rows: (sum(float(r["score"]) for r in rows), float(len(rows))), _mean)


def _doc(sample: Sample) -> Hashable:
    return sample["doc_id"]


def _group(sample: Sample) -> Hashable:
    return sample["group"]


def _mean(sums: np.ndarray) -> np.ndarray:
    return 100 * sums[..., 0] / np.maximum(sums[..., 1], 1e-9)


def _confusion(rows: Sequence[Sample]) -> tuple[float, float, float]:
    """True positives, false positives, false negatives; yes is positive. What is neither yes nor no is a no."""
    said = [(r["reading"] == "yes", r["target"] == "yes") for r in rows]
    return (
        float(sum(yes and truth for yes, truth in said)),
        float(sum(yes and not truth for yes, truth in said)),
        float(sum(truth and not yes for yes, truth in said)),
    )


def _mean_f1(sums: np.ndarray) -> np.ndarray:
    """Mean over the categories of F1 = 2 TP / (2 TP + FP + FN)."""
    parts = sums.reshape(*sums.shape[:-1], -1, 3)
    hits, false, missed = parts[..., 0], parts[..., 1], parts[..., 2]
    return 100 * (2 * hits / np.maximum(2 * hits + false + missed, 1e-9)).mean(-1)


def clustered(samples: Sequence[Sample], of: Statistic) -> dict[Hashable, np.ndarray]:
    """Sums of each image, in the order of the images' first samples. A unit belongs to its first sample's image."""
    units: dict[Hashable, list[Sample]] = {}
    for sample in samples:
        units.setdefault(of.unit(sample), []).append(sample)
    images: dict[Hashable, np.ndarray] = {}
    for rows in units.values():
        numbers = np.asarray(of.counts(rows), dtype=np.float64)
        image = rows[0]["image_key"]
        images[image] = images[image] + numbers if image in images else numbers
    return images


def drawn(counts: np.ndarray, *, repeats: int = REPEATS, seed: int = 0) -> np.ndarray:
    """Bootstrap sums: (images, numbers) to (repeats, numbers), each with as many images drawn as there are."""
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
    """Two-sided exact p-value: that so uneven a split of the changed samples comes from a fair coin. 1 for none."""
    from scipy.stats import binomtest

    changed = gained + lost
    return 1.0 if changed == 0 else float(binomtest(gained, changed, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: each at most 1, and never below that of a smaller one."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, worst = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = worst
    return adjusted


@dataclass(frozen=True)
class Flips:
    """Units that went from wrong to right (`gained`) and from right to wrong (`lost`) against vanilla.

    `loyalty`: share of the samples, in percent, whose reading is vanilla's.
    """

    gained: int
    lost: int
    loyalty: float

    @classmethod
    def between(cls, own: Sequence[Sample], base: Sequence[Sample], of: Statistic) -> Flips:
        """Raises ValueError when the two are not about the same samples."""
        readings = {s["doc_id"]: s["reading"] for s in base}
        if readings.keys() != {s["doc_id"] for s in own}:
            raise ValueError("the two rows are not about the same samples")
        mine, theirs = right(own, of), right(base, of)
        gained = sum(hit and not theirs[unit] for unit, hit in mine.items())
        lost = sum(theirs[unit] and not hit for unit, hit in mine.items())
        same = sum(readings[s["doc_id"]] == s["reading"] for s in own)
        return cls(gained, lost, 100 * same / len(own))


def right(samples: Sequence[Sample], of: Statistic) -> dict[Hashable, bool]:
    """Which units are right: every one of a unit's samples is."""
    units: dict[Hashable, bool] = {}
    for sample in samples:
        unit = of.unit(sample)
        units[unit] = units.get(unit, True) and sample["score"] >= RIGHT
    return units


def yes_ratio(samples: Sequence[Sample]) -> float:
    """Share of the answers, in percent, that are read as yes: from the predictions, not from the truth."""
    return 100 * sum(s["reading"] == "yes" for s in samples) / len(samples)


@dataclass(frozen=True)
class Row:
    """A row's samples in one task, and the name of the row that it is compared with (None: with none)."""

    samples: Sequence[Sample]
    base: Hashable | None


def task_stats(task: str, protocol: str, rows: Mapping[Any, Row]) -> dict[Any, dict[str, Any]]:
    """The `stats` of each row of one task: interval, and against its base difference, interval, p-value, flips.

    `p_holm` is left for the whole table (`adjust`). Rows about other samples than most (a failed run cut short) have
    draws of their own.
    """
    found: dict[Hashable, dict[str, Any]] = {}
    groups: dict[tuple[Hashable, ...], list[Hashable]] = {}
    per_image: dict[Hashable, dict[Hashable, np.ndarray]] = {}
    for name, row in rows.items():
        of = statistic(task, protocol, row.samples)
        per_image[name] = clustered(row.samples, of)
        groups.setdefault((*per_image[name], len(row.samples)), []).append(name)
    for names in groups.values():
        of = statistic(task, protocol, rows[names[0]].samples)
        table = np.stack([np.stack(list(per_image[name].values())) for name in names], axis=1)
        sums = drawn(table.reshape(len(table), -1)).reshape(REPEATS, len(names), -1)
        values = {name: of.value(sums[:, place]) for place, name in enumerate(names)}
        exact = {name: float(of.value(table[:, place].sum(0))) for place, name in enumerate(names)}
        for name in names:
            found[name] = {"interval": list(interval(values[name]))}
            if task == "pope":
                found[name]["yes_ratio"] = yes_ratio(rows[name].samples)
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
    """Put Holm's `p_holm`, over all comparisons of a table, beside each `p`."""
    compared = [one["against"] for one in stats if "against" in one]
    for against, p in zip(compared, holm([against["p"] for against in compared]), strict=True):
        against["p_holm"] = p
