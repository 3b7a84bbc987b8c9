"""Statistics of timings, and the output lengths at which a method is worth it.

The names are those of serving benchmarks. ttft: time to first token, with vision tower and projector. itl: inter-token
latency, of each token after the first. tpot: time per output token, the mean of a run's itl. e2el: end-to-end latency
of a whole request, see `evals.profiling.record.Run.request`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evals.profiling.record import percentile

if TYPE_CHECKING:
    from evals.bench.document import Times

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
