"""Ratios of timings, with the interval of their rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typing_extensions import TypedDict

from evals.profiling.record import Run, percentile

RESAMPLES = 2000
LEVEL = 0.95


class RatioEntry(TypedDict):
    """A speed-up with its 95 % interval, paired over the rounds. None: one round, or an older file."""

    ratio: float
    low: float | None
    high: float | None


class SpeedUps(TypedDict):
    """Vanilla's times over a method's, in the same rounds. request: one with as many output tokens as were decoded."""

    prefill: RatioEntry
    ttft: RatioEntry
    request: RatioEntry


def speed_ups(vanilla: Sequence[Run], method: Sequence[Run], new: int) -> SpeedUps:
    """The speed-ups of runs in the same rounds, for requests with `new` output tokens."""
    return {
        "prefill": speed_up([run.prefill for run in vanilla], [run.prefill for run in method]),
        "ttft": speed_up([run.ttft for run in vanilla], [run.ttft for run in method]),
        "request": speed_up([run.request(new) for run in vanilla], [run.request(new) for run in method]),
    }


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


def is_noise(found: RatioEntry) -> bool:
    """Whether the interval of a speed-up includes 1."""
    low, high = found["low"], found["high"]
    return low is not None and high is not None and low <= 1 <= high and low < high
