"""The results of a profile, and their rows in the result document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from evals.profiling.ratios import SpeedUps

# "features": the decoder ran with precomputed image features. "difference", in older files only: the time of the whole
# forward minus that of tower and projector.
PrefillSource = Literal["features", "difference"]

# The end of the label of a method that ran by CUDA graphs.
CAPTURED = " (captured)"


def request_ms(first: Any, further: Any, new: Any) -> Any:
    """Milliseconds of a whole request with `new` output tokens: the time of the first, and of each further one.

    A longer output reads a longer cache, which this leaves out. Numbers, or arrays of one shape.
    """
    return first + (new - 1) * further


@dataclass(frozen=True)
class Spread:
    """Median, 95th percentile and minimum of repeated timings, in milliseconds."""

    median: float
    p95: float
    min: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Spread:
        """Summarise timings in milliseconds. The p95 is interpolated. Raises ValueError for an empty sequence."""
        if not samples_ms:
            raise ValueError("no timings to summarise")
        return cls(percentile(samples_ms, 0.5), percentile(samples_ms, 0.95), min(samples_ms))


@dataclass(frozen=True)
class Run:
    """One timed request of one method, in milliseconds; `decode`: of each token after the first.

    `vision`: vision tower and projector alone. None: not timed, as they are one graph with the decoder.
    """

    ttft: float
    prefill: float
    selection: float
    decode: tuple[float, ...]
    vision: float | None = None

    @property
    def tpot(self) -> float:
        """Time per output token: the mean over the decoded tokens."""
        return sum(self.decode) / len(self.decode)

    def request(self, new: int) -> float:
        """Milliseconds of a whole request with `new` output tokens, at the speed of this run."""
        return float(request_ms(self.ttft, self.tpot, new))


@dataclass(frozen=True)
class Measurement:
    """One method at one batch size. Times are per forward of the whole batch; counts are per sequence."""

    batch: int
    text_tokens: int
    new_tokens: int
    repeats: int
    ttft_ms: Spread
    prefill_ms: Spread
    prefill_source: PrefillSource
    # The part of the prefill that choosing tokens takes: scores, top-k, gathering. It excludes keys that the next layer
    # reuses.
    selection_ms: Spread
    decode_ms: Spread
    entering: tuple[int, ...]
    flops: int
    paper_macs: int
    kv_bytes: int
    # Torch's peak memory during one prefill and decode of the whole batch, including the weights.
    peak_bytes: int
    vision_ms: Spread | None = None  # see Run.vision
    speed_ups: SpeedUps | None = None  # over vanilla, in the same rounds

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens per second over the batch, without the prefill."""
        return 1000.0 * self.batch / self.decode_ms.median


@dataclass(frozen=True)
class Profile:
    """All measurements of one method on one model, one per batch size."""

    label: str
    measurements: tuple[Measurement, ...]

    def rows(self, model: str, method: str) -> list[dict[str, Any]]:
        """The `profiles` entries of the result document: plain numbers, ready for JSON."""
        return [
            {"model": model, "method": method, "label": self.label, **asdict(m), "entering": list(m.entering)}
            for m in self.measurements
        ]


def percentile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` of the samples are, interpolated linearly between neighbours."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
