"""From the runs of two methods to times, speed-ups with intervals, and the time of a whole request.

The names are those of serving benchmarks. ttft: time to first token, with vision tower and projector. itl: inter-token
latency, of each token after the first. tpot: time per output token, the mean of a run's itl. e2el: end-to-end latency
of a request with n output tokens, ttft + (n - 1) x tpot. A longer output reads a longer cache, which this leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evals.profiling.record import Run, percentile

if TYPE_CHECKING:
    from evals.bench.document import RatioEntry, Times

RESAMPLES = 2000
LEVEL = 0.95
DIGITS = 5  # decimals of a millisecond in files: 10 nanoseconds

# A method is worth it here if a request becomes at least this many times as fast.
WORTH = 1.1


def times(samples: Sequence[float], *, raw: bool = True) -> Times:
    """Statistics of timings in milliseconds, and the timings themselves, in the order of the rounds.

    Raises ValueError for an empty sequence.
    """
    if not samples:
        raise ValueError("no timings to summarise")
    shares = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
    found: Times = {
        "mean": sum(samples) / len(samples),
        **{name: percentile(samples, share) for name, share in shares.items()},  # type: ignore[typeddict-item]
        "min": min(samples),
    }
    if raw:
        found["samples"] = [round(one, DIGITS) for one in samples]
    return found


def e2el(run: Run, new: int) -> float:
    """Milliseconds of a request with `new` output tokens, at the speed of this run."""
    return run.ttft + (new - 1) * run.tpot


def speed_up(vanilla: Sequence[float], method: Sequence[float], *, paired: bool = True) -> RatioEntry:
    """Ratio of the medians, vanilla's over the method's, with a 95 % interval.

    Both sequences have one number a round. The interval is a bootstrap over rounds: a round that another program slowed
    down is drawn for both or for neither. Not `paired`: the rounds are of different runs, and each is drawn on its own.
    The draws are the same in every run. With one round there is no interval.
    """
    samples = {"vanilla": vanilla, "method": method}
    return of_medians(lambda median: median["vanilla"] / median["method"], samples, paired=paired)


def of_medians(
    value: Callable[[Mapping[str, Any]], Any], samples: Mapping[str, Sequence[float]], *, paired: bool = True
) -> RatioEntry:
    """`value` of the medians of these timings by name, with a 95 % interval, as in `speed_up`.

    `value` has to compute element by element: it gets numbers, and then arrays of the medians of all draws.
    """
    import numpy as np

    rounds = {name: len(one) for name, one in samples.items()}
    if paired and len(set(rounds.values())) > 1:
        raise ValueError(f"these timings are not of the same rounds: {rounds}")
    ratio = float(value({name: percentile(one, 0.5) for name, one in samples.items()}))
    if min(rounds.values()) < 2:
        return {"ratio": ratio, "low": None, "high": None}
    generator, drawn, medians = np.random.default_rng(0), None, {}
    for name, one in samples.items():
        if drawn is None or not paired:
            drawn = generator.integers(0, len(one), (RESAMPLES, len(one)))
        medians[name] = np.median(np.asarray(one)[drawn], axis=1)
    low, high = np.quantile(value(medians), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"ratio": ratio, "low": float(low), "high": float(high)}


@dataclass(frozen=True)
class Lengths:
    """The output lengths at which a method is worth it: from `first` to `last` tokens; None: without an end."""

    first: int = 1
    last: int | None = None

    def includes(self, new: int) -> bool:
        return self.first <= new and (self.last is None or new <= self.last)

    def words(self) -> str:
        if self.last is None:
            return "at every output length" if self.first == 1 else f"from {self.first} output tokens on"
        return f"up to {self.last} output token{'s' * (self.last > 1)}"


def worth_it(
    vanilla_ttft: float, vanilla_tpot: float, ttft: float, tpot: float, least: float = WORTH
) -> Lengths | None:
    """The output lengths at which a request is at least `least` times as fast as vanilla's; None: at no length.

    The speed-up goes from that of the first token to that of the following ones, so there is one break-even point.
    """
    # vanilla's time minus `least` times the method's: of the first token, and of each further one.
    first, further = vanilla_ttft - least * ttft, vanilla_tpot - least * tpot
    if first >= 0 and further >= 0:
        return Lengths()
    if first < 0 and further <= 0:
        return None
    if first >= 0:
        return Lengths(last=1 + math.floor(first / -further))
    return Lengths(first=1 + math.ceil(-first / further))
