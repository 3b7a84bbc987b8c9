"""How the value of a task of lmms-eval follows from its samples: see `evals.tasks.generic`."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# The keys of a sample's score in what process_results gives, and of a reading next to the right answer.
SCORE_KEYS = ("score", "correct", "acc", "accuracy", "is_correct", "hit")
PAIRS = (
    *(("pred", "answer"), ("pred_answer", "answer"), ("parsed_pred", "answer"), ("prediction", "ground_truth")),
    *(("pred", "ground_truth"), ("pred", "gt"), ("prediction", "answer"), ("pred", "target"), ("prediction", "target")),
)
# How near the value has to be: nearer than a stored value may be to the one that follows from its records.
CLOSE = {"rel_tol": 1e-9, "abs_tol": 5e-7}


@dataclass(frozen=True)
class Scored:
    """By place: a sample's score (0-1), and what a score of 1 adds to the value. digits: to which the task rounds."""

    samples: dict[int, tuple[float, float]]
    digits: int | None = None


def weighted_scores(items: Mapping[int, Any], value: float) -> Scored | None:
    """The scores that a value follows from; None if it does not follow from any.

    items: what process_results gave for the samples, by place.
    """
    if not items:
        return None
    for name in (None, *_score_keys(items.values())):
        scores = {place: _score(item, name) for place, item in items.items()}
        known = {place: score for place, score in scores.items() if score is not None}
        if len(known) < len(scores):
            continue
        for weights in _weightings(items):
            total = sum(known[place] * weights[place] for place in known)
            for scale, most in ((1.0, 4), (100.0, 2)):
                for digits in (None, *range(most, 7)):
                    if math.isclose(_rounded(total * scale, digits), value, **CLOSE):
                        return Scored({place: (one, weights[place] * scale) for place, one in known.items()}, digits)
    return None


def _rounded(value: float, digits: int | None) -> float:
    return value if digits is None else round(value, digits)


def number(value: Any) -> float | None:
    """A finite number as a float, also one of numpy; None for anything else."""
    try:
        found = float(value) if not isinstance(value, str | bytes) else math.nan
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def plain(value: Any) -> Any:
    """A value as JSON has it: numpy's numbers as numbers, a tuple as a list, anything unknown as its text."""

    def unknown(one: Any) -> Any:
        return one.tolist() if hasattr(one, "tolist") else str(one)

    try:
        return json.loads(json.dumps(value, default=unknown, allow_nan=False))
    except (TypeError, ValueError):
        return str(value)


def _score_keys(items: Iterable[Any]) -> list[Any]:
    """The ways to read a score from items that are dicts: a key, or a pair of keys and whether capitals count."""
    items = list(items)
    if not items or not all(isinstance(item, Mapping) for item in items):
        return []
    common = set.intersection(*(set(item) for item in items))
    pairs = [pair for pair in PAIRS if set(pair) <= common]
    return [name for name in SCORE_KEYS if name in common] + [
        (*pair, exact) for exact in (True, False) for pair in pairs
    ]


def _score(item: Any, name: Any) -> float | None:
    """An item's score from 0 to 1: the item itself, its entry, or whether two of its entries are equal."""
    if isinstance(name, tuple):
        reading, answer, exact = item[name[0]], item[name[1]], name[2]
        reading = reading[0] if isinstance(reading, list) and len(reading) == 1 else reading  # of one response
        return float(reading == answer if exact else _folded(reading) == _folded(answer))
    found = number(item if name is None else item[name])
    return found if found is not None and 0 <= found <= 1 else None


def _folded(value: Any) -> str:
    """A reading as tasks compare it when capitals do not count, or when one side is a number."""
    return str(value).strip().lower()


def _weightings(items: Mapping[int, Any]) -> Iterator[dict[int, float]]:
    """Weights of the samples that a value may have: those of a mean, and of a mean over the groups of a category."""
    count = len(items)
    yield dict.fromkeys(items, 1 / count)
    if not all(isinstance(item, Mapping) for item in items.values()):
        return
    for name in sorted(set.intersection(*(set(item) for item in items.values()))):
        groups: dict[Any, list[int]] = defaultdict(list)
        for place, item in items.items():
            groups[str(item[name])].append(place)
        if 1 < len(groups) < count:
            yield {place: 1 / (len(groups) * len(own)) for own in groups.values() for place in own}
