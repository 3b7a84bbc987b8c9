"""Where the time of a request goes: what the machine's limits explain, and the rest.

Of prefill and decoding the least time at the measured ceilings is split by what it is spent on
(`evals.profiling.ceilings.Parts`). What they take beyond that is overhead: small kernels and matrices, which run at a
lower rate than the large one that gave the ceiling. What a method takes longer than by CUDA graphs is the launches of
its kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evals.profiling.record import request_ms

if TYPE_CHECKING:
    from evals.bench.document import BenchRow, LeastParts

TOWER, WEIGHTS, CACHE, MATMUL, ATTENTION, SELECTION, LAUNCHES, OVERHEAD = (
    "tower", "weights", "KV cache", "projections", "attention", "selection", "launches", "overhead",
)  # fmt: skip
PARTS = (TOWER, WEIGHTS, CACHE, MATMUL, ATTENTION, SELECTION, OVERHEAD, LAUNCHES)


def breakdown(row: BenchRow, new: int, captured: BenchRow | None = None) -> dict[str, float]:
    """Milliseconds of a request with `new` output tokens by part. Their sum is its latency, of medians.

    captured: the same method by CUDA graphs, to tell launches from other overhead. Of a captured method the tower is
    what the first token takes beyond the prefill. A part that is measured faster than its limit leaves no overhead;
    the sum is then the limit.
    """
    vision, prefill, tpot = row.get("vision_ms"), row["prefill_ms"]["p50"], row["tpot_ms"]["p50"]
    ttft, selection = row["ttft_ms"]["p50"], row["selection_ms"]["p50"]
    parts, step = row["least_parts_ms"]["prefill"], row["least_parts_ms"]["decode"]
    tower = max(0.0, ttft - prefill) if vision is None else min(vision["p50"], ttft)
    found = {
        TOWER: tower,
        WEIGHTS: parts["weights"] + (new - 1) * step["weights"],
        CACHE: parts["cache"] + (new - 1) * step["cache"],
        MATMUL: parts["matmul"] + (new - 1) * step["matmul"],
        ATTENTION: parts["attention"] + (new - 1) * step["attention"],
        SELECTION: selection,
    }
    rest = max(0.0, ttft - tower - total(parts) - selection) + (new - 1) * max(0.0, tpot - total(step))
    if captured is None:
        return {**found, OVERHEAD: rest}
    launches = min(rest, max(0.0, latency(row, new) - latency(captured, new)))
    return {**found, LAUNCHES: launches, OVERHEAD: rest - launches}


def latency(row: BenchRow, new: int) -> float:
    """Milliseconds of a request with `new` output tokens, of medians."""
    return float(request_ms(row["ttft_ms"]["p50"], row["tpot_ms"]["p50"], new))


def total(parts: LeastParts) -> float:
    """Milliseconds of all parts."""
    return parts["weights"] + parts["cache"] + parts["matmul"] + parts["attention"]


def bound(parts: dict[str, float]) -> tuple[str, float]:
    """The part that takes most, and its share of the request."""
    name = max(parts, key=lambda part: parts[part])
    whole = sum(parts.values())
    return name, parts[name] / whole if whole else 0.0
