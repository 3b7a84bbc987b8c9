"""Text output of `run.py bench`: theoretical cost, ceilings and timings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evals.bench.answer import EXPLAINED as ANSWER_EXPLAINED
from evals.bench.answer import answers, shape, where
from evals.bench.breakdown import total
from evals.matrix.plan_table import run_lengths, scaled
from evals.plain_table import fitted
from evals.report.units import MISSING, millis, ratio
from hidrop.geometry import Geometry
from hidrop.plan import TokenPlan
from hidrop.reducer import Reducer

if TYPE_CHECKING:
    from evals.bench.document import BenchDocument, BenchRow
    from evals.profiling.ceilings import Ceilings
    from evals.profiling.ratios import RatioEntry

TIMES = ("method", "tokens", "prefill ms (p95)", "TTFT ms (p95)", "tower ms", "TPOT ms", "ITL p99")
LIMITS = ("method", "layerwise limit", "physical limit", "selection", "decode limit")
MEMORY = ("method", "KV MiB", "peak MiB", "largest batch", "requests/s", "output tokens/s", "joules each")
NOISE = "~"  # after a value above its bound
EXPLAINED = (
    "Times are medians. Prefill: decoder and LM head. TTFT: prefill plus vision tower and projector, which a\n"
    "method whose first layers see no image can run at the same time on a GPU. TPOT: time per output token,\n"
    "decoded right after the prompt. ITL: of single tokens. Before each limit: the part of it that was reached.\n"
    "Layerwise limit: the speed-up if each layer took the time of transformers' own decoder layer at its tokens,\n"
    "and all else its time in transformers' own forward, both measured in the same rounds.\n"
    "Physical limit: the time of the prefill's operations and bytes at the ceilings above.\n"
    "Decode limit: TPOT if weights and cache were read at the copy rate. Selection: part of the prefill spent on\n"
    f"choosing tokens. {NOISE}: above its bound, so noise.\n"
    "Captured: with CUDA graphs, in which the tower cannot be timed apart; compared with captured vanilla.\n"
    "Largest batch: an estimate of what fits into the free memory, from the peak. KV: of one request after the\n"
    "prefill. Joules: of one request."
)


def implied(geometry: Geometry, reducers: Mapping[str, Reducer], text: int, element_bytes: int) -> str:
    """The theoretical cost: tokens, operations and bytes of each method, computed from the sizes."""
    g = geometry
    total = g.layers * g.layer_weights + g.hidden * g.vocab
    head = (
        f"{g.layers} layers, hidden {g.hidden}, MLP {g.intermediate}, {g.heads} heads ({g.kv_heads} KV heads), "
        f"{g.visual_tokens} visual and {text} text tokens; decoder and LM head: {total * element_bytes / 2**20:.0f} MiB"
    )
    lines = [("method", "average", "FLOPs", "KV MiB", "layers x visual tokens")]
    for label, reducer in reducers.items():
        plan: TokenPlan = reducer.plan(g)
        most = f"{reducer.bound} " if reducer.bound else ""
        kv = plan.kv_bytes(text, element_bytes) / 2**20
        lines.append(
            (
                label,
                f"{most}{plan.average_tokens:.2f}",
                most + scaled(plan.flops(text)),
                f"{most}{kv:.1f}",
                "depends on the sample" if reducer.bound == "<=" else most + run_lengths(plan.entering),
            )
        )
    return "\n".join([head, "", *fitted(lines)])


def ceilings(found: Ceilings) -> str:
    return (
        f"Ceilings measured: copy {found.bytes_per_second / 1e9:.1f} GB/s, matmul "
        f"{found.flops_per_second / 1e12:.3f} TFLOP/s (ridge at {found.ridge:.0f} operations per byte)"
    )


def point_text(rows: Sequence[BenchRow], overhead: RatioEntry) -> str:
    """All tables of one point, and the answer in words. No line of a table is longer than 80 characters."""
    news = [one["new_tokens"] for one in rows[0]["requests"]]
    requests = [f"request, {new} token{'s' * (new > 1)}" for new in news]
    last = f" at {news[-1]}" if news else ""
    memory = [*MEMORY[:4], *(f"{name}{last}" for name in MEMORY[4:])]
    if all(one["joules"] is None for row in rows for one in row["requests"]):
        memory = memory[:-1]
    blocks = [
        fitted([TIMES, *map(_times, rows)]),
        fitted([("speed-up over vanilla", "prefill", "TTFT", "TPOT", *requests), *map(_speed_ups, rows)]),
        fitted([LIMITS, *map(_limits, rows)]),
        fitted([tuple(memory), *(_memory(row)[: len(memory)] for row in rows)]),
        [f"time of vanilla in this runtime / transformers' own forward: {overhead['ratio']:.3f}"],
        answers(rows),
    ]
    head = f"{where(shape(rows[0]))}, {rows[0]['repeats']} rounds".capitalize()
    return "\n\n".join([head, *("\n".join(block) for block in blocks if block)])


def short_text(rows: Sequence[BenchRow]) -> str:
    """The answer at one point of a sweep."""
    return "\n".join([f"{where(shape(rows[0]))}:".capitalize(), *(f"  {line}" for line in answers(rows))])


def _times(row: BenchRow) -> tuple[str, ...]:
    prefill, ttft, vision = row["prefill_ms"], row["ttft_ms"], row["vision_ms"]
    share = row["vision_share"]
    return (
        row["label"],
        f"{row['average_tokens']:.1f}",
        f"{prefill['p50']:.1f} ({prefill['p95']:.1f})",
        f"{ttft['p50']:.1f} ({ttft['p95']:.1f})",
        MISSING if vision is None or share is None else f"{vision['p50']:.1f} ({100 * share:.0f} %)",
        f"{row['tpot_ms']['p50']:.2f}",
        _number(row["itl_ms"].get("p99"), 2),
    )


def _speed_ups(row: BenchRow) -> tuple[str, ...]:
    ups = row["speed_ups"]
    requests = (ratio(one["speed_up"], interval=True) for one in row["requests"])
    return row["label"], *(ratio(ups[name], interval=True) for name in ("prefill", "ttft", "tpot")), *requests


def _limits(row: BenchRow) -> tuple[str, ...]:
    step = total(row["least_parts_ms"]["decode"])
    return (
        row["label"],
        reached(row["of_ideal"]["layerwise"], f"{row['ideal_speed_up']['layerwise'] or 0:.2f}x"),
        reached(row["of_physical_limit"], f"{millis(row['physical_ms'])} ms"),
        MISSING if row["captured"] else f"{100 * row['selection_share']:.1f} %",
        reached(row["of_decode_limit"], f"{millis(step)} ms") if step else MISSING,
    )


def _memory(row: BenchRow) -> tuple[str, ...]:
    kv = f"{row['kv_bytes'] / 2**20:.1f}" + ("" if row["kv_bytes"] == row["kv_bytes_planned"] else " (not as planned)")
    last = row["requests"][-1] if row["requests"] else None
    return (
        row["label"],
        kv,
        f"{row['peak_bytes'] / 2**20:.0f}",
        MISSING if row["largest_batch"] is None else str(row["largest_batch"]),
        MISSING if last is None else f"{last['requests_per_second']:.3g}",
        MISSING if last is None else f"{last['output_tokens_per_second']:.3g}",
        MISSING if last is None else _number(last["joules"], 2),
    )


def reached(found: float | None, limit: str) -> str:
    """ "0.95 of 4.23x"."""
    return MISSING if found is None else f"{part(found)} of {limit}"


def part(found: float | None) -> str:
    """The part of a limit that was reached; one above 1 is marked as noise."""
    return MISSING if found is None else f"{found:.2f}{NOISE if found > 1.005 else ''}"


def _number(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:.{digits}f}"


def explained(document: BenchDocument) -> str:
    """What the tables and the answers mean."""
    single = document["points_left"] == 0 and len(document["points"]) == 1
    return "\n".join([EXPLAINED, ANSWER_EXPLAINED] if single else [ANSWER_EXPLAINED])
