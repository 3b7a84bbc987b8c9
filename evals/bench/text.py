"""Text output of `run.py bench`: theoretical cost, ceilings, timings, and the bars that they have to meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evals.bench.answer import EXPLAINED as ANSWER_EXPLAINED
from evals.bench.answer import answers, points_of, ratio, shape, where
from evals.bench.breakdown import total
from evals.matrix.plan_table import run_lengths, scaled
from evals.plain_table import aligned, fitted
from evals.report.units import MISSING, millis
from hidrop.geometry import Geometry
from hidrop.plan import TokenPlan
from hidrop.reducer import Reducer

if TYPE_CHECKING:
    from evals.bench.document import BenchDocument, BenchRow
    from evals.profiling.ceilings import Ceilings

# The part of the layerwise limit that each method's prefill has to reach.
LAYERWISE = dict.fromkeys(("hidrop", "pdrop", "fastv", "random", "uniform"), 0.95)
LEAST_TOKENS = 576  # for HiDrop's bar: its cut projects all tokens, a large part of a small prefill
OTHER_FAMILIES = 0.93  # where images have their own numbers of tokens: three axes of positions, DeepStack
LAYERWISE |= dict.fromkeys(("divprune", "sparsevlm"), 0.93)
TIMES = ("method", "tokens", "prefill ms (p95)", "TTFT ms (p95)", "tower ms", "TPOT ms", "ITL p99")
LIMITS = ("method", "layerwise limit", "physical limit", "selection", "decode limit")
MEMORY = ("method", "KV MiB", "peak MiB", "largest batch", "requests/s", "output tokens/s", "joules each")
NOISE = "~"  # after a value above its bound
EXPLAINED = (
    "Times are medians. Prefill: decoder and LM head. TTFT: prefill plus vision tower and projector, which a\n"
    "method whose first layers see no image can run at the same time on a GPU. TPOT: time per output token,\n"
    "decoded right after the prompt. ITL: of single tokens. Before each limit: the part of it that was reached.\n"
    "Layerwise limit: the speed-up if each layer took the time of transformers' own decoder layer at its tokens,\n"
    "in the same rounds. Physical limit: the time of the prefill's operations and bytes at the ceilings above.\n"
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


def point_text(rows: Sequence[BenchRow], overhead: float) -> str:
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
        [f"time of vanilla in this runtime / transformers' own forward: {overhead:.3f}"],
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


def bars(rows: Sequence[BenchRow], overhead: float, most: float = 1.0) -> list[Bar]:
    """The bars of one point: overhead over transformers, part of the layerwise limit, selection, TPOT and KV bytes.

    `most`: the largest part of the layerwise limit that is asked for.
    """
    label = where(shape(rows[0]))
    own = [row for row in rows if not row["captured"]]
    vanilla = next(row for row in own if row["method"] == "vanilla")
    found = [Bar(f"{label}: vanilla / transformers' own forward", overhead, most=1.02)]
    for row in own:
        reach = row["of_ideal"]["layerwise"]
        if reach is not None and row["method"] in LAYERWISE:
            found.append(
                Bar(
                    f"{label}: {row['label']}, part of the layerwise limit",
                    reach,
                    least=min(most, LAYERWISE[row["method"]]),
                )
            )
        if row["method"] == "hidrop":
            decode = row["tpot_ms"]["p50"] / vanilla["tpot_ms"]["p50"]
            found += [
                Bar(f"{label}: {row['label']}'s selection, part of its prefill", row["selection_share"], most=0.03),
                Bar(f"{label}: {row['label']}'s TPOT / vanilla's", decode, most=1.0),
            ]
    off = sum(row["kv_bytes"] != row["kv_bytes_planned"] for row in rows)
    found.append(Bar(f"{label}: methods whose KV bytes differ from the plan", off, most=0))
    return found


def targets(rows: Sequence[BenchRow], model: str, gpu: str) -> list[Bar]:
    """The bars of captured forwards on an H200 with LLaVA-1.5-7B's sizes, 576 + 60 tokens, in bfloat16."""
    if model != "llava-1.5-7b" or "H200" not in gpu:
        return []
    found = []
    for row in rows:
        if not row["captured"] or shape(row)[:2] != (1, 60):
            continue
        label, batch, budget = row["label"], row["batch"], row["budget"]
        limit = {("vanilla", None): 13.0, ("hidrop", "48"): 5.0, ("hidrop", "64"): 5.3}.get((row["method"], budget))
        if batch == 1 and limit is not None:
            found.append(Bar(f"batch 1: {label}, ms", row["prefill_ms"]["p50"], most=limit))
            found.append(Bar(f"batch 1: {label}, part of the physical limit", row["of_physical_limit"], least=0.7))
        if row["method"] == "hidrop" and budget == "48" and batch == 16:
            found.append(Bar(f"batch 16: {label}, speed-up", row["speed_ups"]["prefill"]["ratio"], least=4.5))
        if row["method"] == "hidrop" and budget == "48" and batch == 1:
            found.append(Bar(f"batch 1: {label}, TTFT speed-up", row["speed_ups"]["ttft"]["ratio"], least=2.2))
    return found


def all_bars(document: BenchDocument) -> list[Bar]:
    """The bars of a whole document: those of an H200, if it has any, or else those of each point."""
    gpu = str(document["hardware"].get("gpu", ""))
    if found := targets(document["rows"], document["model"], gpu):
        return found
    overheads = {
        (one["images"], one["text_tokens"], one["batch"]): one["vanilla_over_transformers"] or 0.0
        for one in document["points"]
    }
    points = points_of(document["rows"])
    most = OTHER_FAMILIES if document["sizes"].get("dynamic") else 1.0
    return [bar for point, rows in points.items() for bar in bars(rows, overheads[point], most)]


def grown_bars(document: BenchDocument) -> list[Bar]:
    """The part of the layerwise limit that each method reaches, at each number of visual tokens and batch size."""
    found = []
    for row in document["rows"]:
        reach, tokens = row["of_ideal"]["layerwise"], row["images"] * document["sizes"]["visual_tokens"]
        small = row["method"] == "hidrop" and tokens < LEAST_TOKENS
        if reach is not None and row["method"] in LAYERWISE and not row["captured"] and not small:
            what = f"{tokens} visual tokens, batch {row['batch']}: {row['label']}, part of the layerwise limit"
            found.append(Bar(what, reach, least=LAYERWISE[row["method"]]))
    return found


def explained(document: BenchDocument) -> str:
    """What the tables and the answers mean."""
    single = document["points_left"] == 0 and len(document["points"]) == 1
    return "\n".join([EXPLAINED, ANSWER_EXPLAINED] if single else [ANSWER_EXPLAINED])


def bars_text(found: Sequence[Bar]) -> str:
    return "\n".join(aligned([("bar", "measured", "bound", ""), *(bar.cells() for bar in found)]))
