"""How sure % of vanilla is: half-widths of 95 % intervals, of a row against vanilla and of two rows against each other.

% of vanilla is the mean over the tasks, whose samples are taken as independent. The score of vanilla that it is
relative to is taken as exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from math import hypot, isfinite, sqrt

from evals.report.rows import TableRow, number, rows_of, tasks_in_percent
from evals.store.result_document import ResultDocument

HALF = 1.959964  # standard deviations of a normal distribution in half of its 95 % interval


def half_width(row: TableRow, tasks: Sequence[str]) -> float | None:
    """Half of the 95 % interval of a row's difference from vanilla, in percent of vanilla.

    None if a task has no comparison with vanilla.
    """
    halves = []
    for task in tasks:
        against, factor = row.against(task), _percent(row, task)
        if not against or factor is None:
            return None
        low, high = against["interval"]
        halves.append(factor * (high - low) / 2)
    return hypot(*halves) / len(halves) if halves else None


def _percent(row: TableRow, task: str) -> float | None:
    """The percent of vanilla in one point of a row's score. None if vanilla's score is not known, or 0."""
    against, score = row.against(task), number(row.scores.get(task))
    base = None if against is None or score is None else score - against["difference"]
    return 100 / base if base else None


class Spreads:
    """The half-widths of a document's rows; those of several seeds of a method together."""

    def __init__(self, document: ResultDocument):
        self.tasks = tasks_in_percent(document)
        self.seeds: dict[tuple[str, str], list[TableRow]] = {}
        for row in rows_of(document):
            self.seeds.setdefault((row.model, row.group), []).append(row)
        self.correlations: dict[str, dict[tuple[str, str], float]] = {}
        for entry in document.get("correlations", ()):
            own = self.correlations.setdefault(entry["task"], {})
            for place, (name, after) in enumerate(zip(entry["rows"], entry["upper"], strict=False)):
                for other, value in zip(entry["rows"][place + 1 :], after, strict=False):
                    own[name, other] = own[other, name] = value

    def from_vanilla(self, row: TableRow) -> float | None:
        """Half of the interval of a row's difference from vanilla.

        Of several seeds the mean of theirs: all have the same samples, so more of them help little.
        """
        halves = [half_width(one, self.tasks) for one in self._seeds(row)]
        known = [half for half in halves if half is not None]
        return sum(known) / len(known) if known and len(known) == len(halves) else None

    def between(self, one: TableRow, other: TableRow) -> float | None:
        """Half of the interval of the difference between two rows, on the same samples.

        A document from before correlations were stored, or of several runs, does not say how much two rows err on the
        same samples. Then their differences from vanilla are taken as independent, which is wider.
        """
        signs = {self._key(row): (row, 1 / len(self._seeds(one))) for row in self._seeds(one)}
        signs |= {self._key(row): (row, -1 / len(self._seeds(other))) for row in self._seeds(other)}
        variances = [self._variance(task, signs) for task in self.tasks]
        known = [variance for variance in variances if variance is not None]
        if known and len(known) == len(variances):
            return HALF * sqrt(sum(known)) / len(known)
        own, theirs = self.from_vanilla(one), self.from_vanilla(other)
        return None if own is None or theirs is None else hypot(own, theirs)

    def _variance(self, task: str, signs: Mapping[str, tuple[TableRow, float]]) -> float | None:
        """The variance of a weighted sum of rows in one task, in percent of vanilla. None if a part is not known."""
        deviations = {}
        for key, (row, weight) in signs.items():
            stats, factor = row.stats.get(task), _percent(row, task)
            if stats is None or factor is None:
                return None
            low, high = stats["interval"]
            deviations[key] = weight * factor * (high - low) / (2 * HALF)
        total = 0.0
        for (name, first), (other, second) in product(deviations.items(), repeat=2):
            together = 1.0 if name == other else self.correlations.get(task, {}).get((name, other))
            if together is None:
                return None
            total += first * second * together
        # Rounded correlations may give a little less than nothing. A document may have numbers that overflow.
        return max(0.0, total) if isfinite(total) else None

    def _seeds(self, row: TableRow) -> list[TableRow]:
        return self.seeds[row.model, row.group]

    @staticmethod
    def _key(row: TableRow) -> str:
        return f"{row.model}/{row.label}"
