"""Rows of a bench without measuring: round numbers of milliseconds on a small decoder."""

from __future__ import annotations

from evals.bench import inference as bench
from evals.bench.inference import Asked
from evals.profiling.ceilings import Ceilings
from evals.profiling.measure import Timed
from evals.profiling.point import Point
from evals.profiling.record import Measurement, Run, Spread
from hidrop.geometry import Geometry
from hidrop.methods import build as build_method

TINY = Geometry(
    layers=6, hidden=32, intermediate=48, heads=4, kv_heads=2, head_dim=8, vocab=99, visual_tokens=16, max_positions=512
)
VANILLA = Asked(build_method("vanilla"))
FASTV = Asked(build_method("fastv", {"layer": 2, "keep": 4}), "4")


def rates(point: Point | None = None, new: tuple[int, ...] = (1, 11)) -> bench.Rates:
    """Vanilla takes 60 ms, and 6 ms for each token."""
    vanilla = timed(60.0, (16,) * 6)
    # Six layers of 9 ms at 24 tokens, of 3 ms at 12, of 2 ms at 8; 6 ms outside of them.
    medians = {"24": 54.0, "12": 18.0, "8": 12.0, bench.NO_LAYERS: 6.0, bench.PLAIN: 58.0}
    beside = {name: [median] * 3 for name, median in medians.items()}
    point = point or Point(text_tokens=8, new_tokens=2)
    return bench.Rates(TINY, Ceilings(1e9, 1e9), point, 4, beside, vanilla, new=new)


def timed(prefill: float, entering: tuple[int, ...]) -> Timed:
    """TTFT and prefill alike, a tenth of it for selection, and a tenth for each decoded token."""
    spread, share = Spread(prefill, prefill, prefill), Spread(prefill / 10, prefill / 10, prefill / 10)
    flops = sum(entering) + 48
    one = Measurement(1, 8, 2, 3, spread, spread, "features", share, share, entering, flops, 1, 7, 1)
    return Timed(one, (Run(prefill, prefill, prefill / 10, (prefill / 10,) * 2, prefill / 5),) * 3)
