"""Statistics of rows and of their differences: intervals, paired tests and flips.

- Intervals come from a bootstrap over *images*: questions about one image are not independent, so images are drawn.
- A row is compared with vanilla on the same draws of the same samples: the interval is that of the paired difference.
- McNemar's exact test asks whether as many samples went from right to wrong as from wrong to right. Holm's procedure
  corrects for all comparisons of a table.

A task's value is a function of sums over its units (`evals.tasks.base.Statistic`), so one set of draws serves all rows.
A value that is not (`evals.tasks.base.Resampled`) is computed again for each draw, for fewer draws. Samples without
scores have no p-value, as McNemar's test has nothing to count.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.tasks.base import RIGHT, Resampled, Sample, Statistic
from evals.tasks.registry import get_task

LEVEL = 0.95
REPEATS = 10_000
CHUNK = 500  # draws at a time
RESAMPLED = 200  # draws for a value that is computed again for each
DIGITS = 3  # decimals of a correlation


@dataclass(frozen=True)
class Clusters:
    """The sums of each image, and the places of the images of each stratum."""

    images: dict[Hashable, np.ndarray]
    strata: tuple[tuple[int, ...], ...]


def clustered(samples: Sequence[Sample], of: Statistic) -> Clusters:
    """The sums of each image, in the order of first appearance. A unit belongs to the image of its first sample.

    With strata, an image that has units of two is one image in each.
    """
    units: dict[Hashable, list[Sample]] = {}
    for sample in samples:
        units.setdefault(of.unit(sample), []).append(sample)
    images: dict[Hashable, np.ndarray] = {}
    strata: dict[Hashable, dict[Hashable, None]] = {}
    for rows in units.values():
        numbers = np.asarray(of.counts(rows), dtype=np.float64)
        stratum = None if of.stratum is None else of.stratum(rows[0])
        image = rows[0]["image_key"] if of.stratum is None else (stratum, rows[0]["image_key"])
        strata.setdefault(stratum, {})[image] = None
        images[image] = images[image] + numbers if image in images else numbers
    places = {image: place for place, image in enumerate(images)}
    return Clusters(images, tuple(tuple(places[image] for image in own) for own in strata.values()))


def value_of(task: str, protocol: str, samples: Sequence[Sample]) -> float:
    """The task's value on its own scale, computed from the records of its samples."""
    of = get_task(task).statistic(protocol, samples)
    if isinstance(of, Resampled):
        return of.value(samples)
    return float(of.value(np.sum(list(clustered(samples, of).images.values()), axis=0)))


def drawn(
    counts: np.ndarray, *, repeats: int = REPEATS, seed: int = 0, strata: Sequence[Sequence[int]] | None = None
) -> np.ndarray:
    """Bootstrap sums: (images, numbers) to (repeats, numbers). Each draw takes as many images as there are.

    strata: the places of the images of each stratum, of which each draw takes as many as there are. By default all
    images are of one.
    """
    generator = np.random.default_rng(seed)
    parts = []
    for start in range(0, repeats, CHUNK):
        size = min(CHUNK, repeats - start)
        sums = np.zeros((size, counts.shape[1]))
        for places in strata or [range(len(counts))]:
            images = len(places)
            weights = generator.multinomial(images, np.full(images, 1 / images), size=size)
            sums += weights.astype(np.float64) @ counts[list(places)]
        parts.append(sums)
    return np.concatenate(parts)


def redrawn(units: int, *, repeats: int = RESAMPLED, seed: int = 0) -> np.ndarray:
    """The places of the units of each draw: (repeats, units)."""
    return np.random.default_rng(seed).integers(units, size=(repeats, units))


def enough(values: np.ndarray) -> bool:
    """Whether nearly all draws have a value. A task may have none for a list without one of its categories."""
    return bool(np.isfinite(values).mean() >= LEVEL)


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of bootstrap values (percentile interval), of the draws that have one."""
    low, high = np.quantile(values[np.isfinite(values)], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact p-value of the split of the changed samples, if gains and losses are equally likely.

    1 if no sample changed. In whole numbers: it is exact, and scipy takes a second to import.
    """
    changed, rarer = gained + lost, min(gained, lost)
    ways = total = 1  # to choose k of the changed samples; for all k up to `rarer`
    for k in range(1, rarer + 1):
        ways = ways * (changed - k + 1) // k
        total += ways
    return min(1.0, 2 * total / 2**changed)


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

    Both are None where samples have no scores; samples that the metric is not for do not count. `loyalty`: the share of
    samples, in percent, with the same reading as vanilla's.
    """

    gained: int | None
    lost: int | None
    loyalty: float

    @property
    def p(self) -> float | None:
        """McNemar's p-value; None without counts."""
        return None if self.gained is None or self.lost is None else mcnemar(self.gained, self.lost)

    @classmethod
    def between(cls, own: Sequence[Sample], base: Sequence[Sample], of: Statistic | Resampled) -> Flips:
        """Raises ValueError when the two rows have different samples."""
        readings = {s["doc_id"]: s["reading"] for s in base}
        if readings.keys() != {s["doc_id"] for s in own}:
            raise ValueError("the two rows have different samples")
        loyalty = 100 * sum(readings[s["doc_id"]] == s["reading"] for s in own) / len(own)
        own, base = ([sample for sample in samples if sample["score"] is not None] for samples in (own, base))
        if not own or {s["doc_id"] for s in own} != {s["doc_id"] for s in base}:
            return cls(None, None, loyalty)
        mine, theirs = right(own, of), right(base, of)
        gained = sum(hit and not theirs[unit] for unit, hit in mine.items())
        lost = sum(theirs[unit] and not hit for unit, hit in mine.items())
        return cls(gained, lost, loyalty)


def right(samples: Sequence[Sample], of: Statistic | Resampled) -> dict[Hashable, bool]:
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
    return stats_together(task, protocol, rows)[0]


@dataclass(frozen=True)
class Correlations:
    """How much the values of rows with the same samples move together over the draws.

    upper: for each of the rows its correlation with the rows after it. A row that does not move has 0.
    """

    rows: list[Any]
    upper: list[list[float]]


def stats_together(
    task: str, protocol: str, rows: Mapping[Any, Row]
) -> tuple[dict[Any, dict[str, Any]], list[Correlations]]:
    """The `stats` of `task_stats`, and the correlations of the rows that have them."""
    asked, together = get_task(task), list[Correlations]()
    found: dict[Hashable, dict[str, Any]] = {}
    rows = {name: row for name, row in rows.items() if _scored(row.samples)}
    kinds = asked.statistics(protocol, {name: row.samples for name, row in rows.items()})
    for names, of, values in _draws(kinds, rows):
        for name in names:
            exact, repeated = values[name]
            if not enough(repeated):
                continue
            found[name] = {"interval": list(interval(repeated)), **asked.row_stats(rows[name].samples)}
            base = rows[name].base
            if base in values and base != name and enough(repeated - values[base][1]):
                flips = Flips.between(rows[name].samples, rows[base].samples, of)
                found[name]["against"] = {
                    "difference": exact - values[base][0],
                    "interval": list(interval(repeated - values[base][1])),
                    "p": flips.p,
                    "gained": flips.gained,
                    "lost": flips.lost,
                    "loyalty": flips.loyalty,
                }
        draws = {name: repeated for name, (_, repeated) in values.items() if name in found}
        if len(draws) > 1:
            together.append(_correlations(draws))
    return found, together


def _correlations(draws: Mapping[Any, np.ndarray]) -> Correlations:
    """Draws without a value for one of the rows are left out."""
    table = np.asarray(list(draws.values()))
    with np.errstate(invalid="ignore", divide="ignore"):
        matrix = np.nan_to_num(np.corrcoef(table[:, np.isfinite(table).all(axis=0)]))
    upper = [[round(float(value), DIGITS) for value in row[place + 1 :]] for place, row in enumerate(matrix)]
    return Correlations(list(draws), upper)


def _scored(samples: Sequence[Sample]) -> bool:
    """Whether samples have scores, or what a task aggregates; those that are to submit or to judge have neither."""
    return any(sample["score"] is not None or "item" in sample for sample in samples)


# Of rows with the same samples: their names, their statistic, and of each its value and the values of the draws.
Drawn = tuple[list[Hashable], Statistic | Resampled, dict[Hashable, tuple[float, np.ndarray]]]


def _draws(kinds: Mapping[Any, Statistic | Resampled], rows: Mapping[Any, Row]) -> Iterator[Drawn]:
    """The draws of each group of rows with the same samples."""
    per_image = {name: clustered(rows[name].samples, of) for name, of in kinds.items() if isinstance(of, Statistic)}
    groups: dict[tuple[Any, ...], list[Hashable]] = {}
    for name, of in kinds.items():
        samples = rows[name].samples
        key = per_image[name].images if isinstance(of, Statistic) else [(s["doc_id"], of.unit(s)) for s in samples]
        groups.setdefault((type(of), *key, len(samples)), []).append(name)
    for names in groups.values():
        of = kinds[names[0]]
        if isinstance(of, Resampled):
            yield names, of, {name: _resampled(rows[name].samples, of) for name in names}
            continue
        table = np.stack([np.stack(list(per_image[name].images.values())) for name in names], axis=1)
        strata = per_image[names[0]].strata
        sums = drawn(table.reshape(len(table), -1), strata=strata).reshape(REPEATS, len(names), -1)
        values = {name: (float(of.value(table[:, i].sum(0))), of.value(sums[:, i])) for i, name in enumerate(names)}
        yield names, of, values


def _resampled(samples: Sequence[Sample], of: Resampled) -> tuple[float, np.ndarray]:
    """The value of samples, and those of the draws. Rows with the same units have the same draws."""
    units: dict[Hashable, list[Sample]] = {}
    for sample in samples:
        units.setdefault(of.unit(sample), []).append(sample)
    lists = list(units.values())
    values = [of.value([s for place in draw for s in lists[place]]) for draw in redrawn(len(lists))]
    return of.value(samples), np.asarray(values)


def adjust(stats: Sequence[dict[str, Any]]) -> None:
    """Add Holm's `p_holm` to each comparison, corrected for all comparisons of a table that have a p-value."""
    compared = [one["against"] for one in stats if "against" in one]
    for against in compared:
        against["p_holm"] = None
    compared = [against for against in compared if against["p"] is not None]
    for against, p in zip(compared, holm([against["p"] for against in compared]), strict=True):
        against["p_holm"] = p
