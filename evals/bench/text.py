"""Text output of `run.py bench`: theoretical cost, ceilings, timings, and the bars that they have to meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evals.bench.document import BenchRow
from evals.matrix.plan_table import run_lengths, scaled
from evals.plain_table import aligned
from evals.profiling.ceilings import Ceilings
from hidrop.geometry import Geometry
from hidrop.plan import TokenPlan
from hidrop.reducer import Reducer

HEADINGS = (
    "method", "tokens", "prefill ms (p95)", "speed-up", "layerwise limit", "reached", "physical limit", "reached",
    "FLOP limit", "reached", "selection", "decode ms", "TTFT ms", "tower ms", "of TTFT", "tokens/s",
    "KV MiB", "peak MiB",
)  # fmt: skip
EXPLAINED = (
    "Speed-up: vanilla's prefill time over the method's. Each limit is followed by the part that was reached.\n"
    "Layerwise limit: from times of transformers' own decoder layer at each number of tokens, in the same rounds.\n"
    "Physical limit: operations and bytes at the ceilings above. FLOP limit: operations alone.\n"
    "Selection: part of the prefill spent on choosing tokens. Prefill and decode: decoder and LM head. TTFT: prefill "
    "plus vision tower and projector. Tower: vision tower and projector alone, and their part of TTFT; a method whose "
    "first layers see no image can run them at the same time on a GPU.\n"
    "Captured: with CUDA graphs, in which the tower cannot be timed apart; compared with captured vanilla."
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
    return "\n".join([head, "", *aligned(lines)])


def ceilings(found: Ceilings) -> str:
    return (
        f"Ceilings measured: copy {found.bytes_per_second / 1e9:.1f} GB/s, matmul "
        f"{found.flops_per_second / 1e12:.3f} TFLOP/s (ridge at {found.ridge:.0f} operations per byte)"
    )


def tables(rows: list[BenchRow], overhead: Mapping[str, float]) -> str:
    """One table per batch size."""
    parts = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        own = [row for row in rows if row["batch"] == batch]
        lines = [HEADINGS, *map(_cells, own)]
        parts.append(f"Batch {batch}, {own[0]['repeats']} rounds, medians")
        parts += aligned(lines)
        parts.append(f"time of vanilla in this runtime / transformers' own forward: {overhead[str(batch)]:.3f}")
        parts.append("")
    return "\n".join([*parts, EXPLAINED])


def _cells(row: BenchRow) -> tuple[str, ...]:
    prefill, ideals, reached = row["prefill_ms"], row["ideal_speed_up"], row["of_ideal"]
    pairs = [
        text
        for name in ("layerwise", "physical", "flops")
        for text in (_number(ideals[name], 2, "x"), _number(reached[name], 3))
    ]
    kv, vision = row["kv_bytes"] / 2**20, row.get("vision_ms")
    return (
        row["label"],
        f"{row['average_tokens']:.1f}",
        f"{prefill['median']:.1f} ({prefill['p95']:.1f})",
        f"{row['speed_up']:.2f}x",
        *pairs,
        _percent(None if row["captured"] else row["selection_share"]),
        f"{row['decode_ms']['median']:.2f}",
        f"{row['ttft_ms']['median']:.1f}",
        _number(None if vision is None else vision["median"], 1),
        _percent(row.get("vision_share")),
        f"{row['tokens_per_second']:.1f}",
        f"{kv:.1f}" + ("" if row["kv_bytes"] == row["kv_bytes_planned"] else " (not as planned)"),
        f"{row['peak_bytes'] / 2**20:.0f}",
    )


def _number(value: float | None, digits: int, unit: str = "") -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


@dataclass(frozen=True)
class Bar:
    """A measured number with the lower or upper bound that it has to meet."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    def cells(self) -> tuple[str, ...]:
        bound = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        return self.what, f"{self.value:.3f}", bound, "holds" if self.holds else "MISSED"


def bars(rows: list[BenchRow], overhead: Mapping[str, float]) -> list[Bar]:
    """The bars at each batch size: overhead over transformers, part of the limits, selection, decode and KV bytes."""
    found = []
    for batch in dict.fromkeys(row["batch"] for row in rows):
        own = {row["method"]: row for row in rows if row["batch"] == batch and not row["captured"]}
        found.append(Bar(f"batch {batch}: vanilla / transformers' own forward", overhead[str(batch)], most=1.02))
        for name in ("hidrop", "pdrop", "fastv"):
            if name in own:
                layerwise = own[name]["of_ideal"]["layerwise"] or 0.0
                found.append(Bar(f"batch {batch}: {name}, part of the layerwise limit", layerwise, least=0.95))
        if "hidrop" in own:
            hidrop, decode = own["hidrop"], own["vanilla"]["decode_ms"]["median"]
            found += [
                Bar(f"batch {batch}: hidrop, part of the FLOP limit", hidrop["of_ideal"]["flops"], least=0.75),
                Bar(f"batch {batch}: hidrop's selection, part of its prefill", hidrop["selection_share"], most=0.03),
                Bar(f"batch {batch}: hidrop's decode / vanilla's", hidrop["decode_ms"]["median"] / decode, most=1.0),
            ]
        off = sum(row["kv_bytes"] != row["kv_bytes_planned"] for row in rows if row["batch"] == batch)
        found.append(Bar(f"batch {batch}: methods whose KV bytes differ from the plan", off, most=0))
    return found


def targets(rows: list[BenchRow], model: str, gpu: str, budget: float) -> list[Bar]:
    """The bars of captured forwards on an H200 with LLaVA-1.5-7B's sizes, 576 + 60 tokens, in bfloat16."""
    if model != "llava-1.5-7b" or "H200" not in gpu:
        return []
    own = {(row["method"], row["batch"]): row for row in rows if row["captured"]}
    found = []
    for (method, batch), row in own.items():
        limit = {"vanilla": 13.0, "hidrop": {48: 5.0, 64: 5.3}.get(int(budget))}.get(method)
        if batch == 1 and limit is not None:
            found.append(Bar(f"batch 1: {row['label']}, ms", row["prefill_ms"]["median"], most=limit))
            found.append(
                Bar(f"batch 1: {row['label']}, part of the physical limit", row["of_physical_limit"], least=0.7)
            )
        if method == "hidrop" and budget == 48:
            whole = own["vanilla", batch]["ttft_ms"]["median"]
            if batch == 16:
                found.append(Bar(f"batch 16: {row['label']}, speed-up", row["speed_up"], least=4.5))
            if batch == 1:
                faster = whole / row["ttft_ms"]["median"]
                found.append(Bar(f"batch 1: {row['label']}, TTFT speed-up", faster, least=2.2))
    return found


def bars_text(found: list[Bar]) -> str:
    return "\n".join(aligned([("bar", "measured", "bound", ""), *(bar.cells() for bar in found)]))
