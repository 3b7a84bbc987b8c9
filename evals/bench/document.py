"""Types of the files in results/bench/, which `bench` and `bench-train` write.

Times are in milliseconds, sizes in bytes. A speed-up is vanilla's time over the method's.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired  # before Python 3.12 pydantic cannot read typing's TypedDict

from typing_extensions import TypedDict

from evals.bench import SCHEMA, TRAINING_SCHEMA
from evals.profiling.ratios import RatioEntry
from evals.store.json_files import FileKind, add, entries
from evals.store.result_document import Layers, Milliseconds, Provenance


class CeilingsEntry(TypedDict):
    """See `evals.profiling.ceilings.Ceilings`."""

    bytes_per_second: float
    flops_per_second: float


class Times(TypedDict):
    """Repeated timings in milliseconds: statistics, and in `samples` each of them, in the order of the rounds.

    Files of schema 1 have p50, p95 and min only.
    """

    mean: NotRequired[float]
    p50: float
    p90: NotRequired[float]
    p95: float
    p99: NotRequired[float]
    min: float
    samples: NotRequired[list[float]]


class SpeedUps(TypedDict):
    prefill: RatioEntry
    ttft: RatioEntry
    tpot: RatioEntry


class IdealSpeedUps(TypedDict):
    """Limits of the prefill's speed-up, see `evals.bench.inference`; also, for the parts of them that were reached."""

    layerwise: float | None
    physical: float
    flops: float


class LeastParts(TypedDict):
    """The least milliseconds at the measured ceilings, see `evals.profiling.ceilings.Parts`."""

    weights: float
    cache: float
    matmul: float
    attention: float


class LeastTimes(TypedDict):
    prefill: LeastParts
    decode: LeastParts


class RequestEntry(TypedDict):
    """A whole request with `new_tokens` output tokens. Throughputs are of the batch, one batch after the other.

    joules: energy of one request; None without NVML. It is measured for `BenchRow.new_tokens` tokens and scaled by the
    time of the request.
    """

    new_tokens: int
    e2el_ms: Times
    speed_up: RatioEntry
    requests_per_second: float
    output_tokens_per_second: float
    joules: float | None


class BenchRow(TypedDict):
    """One method at one point. `captured`: run with CUDA graphs. `fields`: the method's fields. `budget`: as asked.

    itl_ms: of each token after the first, decoded right after the prompt. tpot_ms: its mean in each run.
    new_tokens: the tokens that were decoded in each run.
    kv_bytes_planned: KV bytes of the method's plan; kv_bytes are measured. Both are of one sequence.
    vision_ms: vision tower and projector alone; vision_share: their part of TTFT. None: captured, so that the tower was
    not timed apart.
    selection_share, of_physical_limit, of_decode_limit: 0-1. A value above 1 is noise.
    of_layerwise: the same as of_ideal.layerwise, with its interval; None as well in files before schema 3, whose limit
    left out what is outside of the layers.
    largest_batch: how many such requests fit into the device's memory, with the longest output; an estimate from
    peak_bytes and from the memory that was free. joules: energy of a run of the whole batch, with prefill and
    `new_tokens` tokens; None without NVML.
    """

    label: str
    method: str
    captured: bool
    fields: dict[str, Any]
    budget: str | None
    batch: int
    images: int
    text_tokens: int
    new_tokens: int
    repeats: int
    ttft_ms: Times
    prefill_ms: Times
    prefill_source: Literal["features", "difference"]
    selection_ms: Times
    tpot_ms: Times
    itl_ms: Times
    vision_ms: Times | None
    entering: Layers
    flops: int
    paper_macs: int
    kv_bytes: int
    kv_bytes_planned: int
    peak_bytes: int
    largest_batch: int | None
    joules: float | None
    vision_share: float | None
    average_tokens: float
    selection_share: float
    speed_ups: SpeedUps
    requests: list[RequestEntry]
    ideal_speed_up: IdealSpeedUps
    of_ideal: IdealSpeedUps
    of_layerwise: RatioEntry | None
    layerwise_ms: float | None
    physical_ms: float
    of_physical_limit: float
    least_parts_ms: LeastTimes
    of_decode_limit: float


class PointEntry(TypedDict):
    """One shape of request, whose rows were measured in the same rounds.

    vanilla_over_transformers: vanilla's prefill over that of transformers' own forward. beside_ms: transformers' own
    forward, the same without its layers, and some of its layers by their number of tokens, text included; absent before
    schema 3. With out_of_memory the point did not fit, and has no rows, no ceilings and no ratio.
    """

    batch: int
    text_tokens: int
    images: int
    out_of_memory: bool
    ceilings: CeilingsEntry | None
    vanilla_over_transformers: RatioEntry | None
    beside_ms: NotRequired[dict[str, Times]]
    date: str
    seconds: float


class BenchDocument(Provenance):
    """A file of `bench`. `points_left`: how many are not measured yet. `weight_bytes`: of the whole model.

    ceilings: the best of all points. settings: see `evals.bench.sweep.Sweep`. methods: by label, the method with its
    fields, the budget that was asked for and the digest of its code; empty in files of schema 1. source: "random
    weights" or "checkpoint". code: a digest of hidrop's own code. Both are None in files of schema 1.
    """

    schema: int
    model: str
    source: Literal["random weights", "checkpoint"] | None
    code: str | None
    device: str
    dtype: str
    attention: str
    memory_kept: bool
    compiled: bool
    weight_bytes: int | None
    sizes: dict[str, Any]
    ceilings: CeilingsEntry
    settings: dict[str, Any]
    methods: dict[str, Any]
    points_left: int
    points: list[PointEntry]
    rows: list[BenchRow]


class StepRow(TypedDict):
    """One method's training step; see `evals.bench.training.Step`."""

    label: str
    method: str
    text: list[int]
    checkpointing: bool
    entering: Layers
    step_ms: Milliseconds
    speed_up: float | None
    layerwise: float | None
    activation_bytes: int
    peak_bytes: int
    of_layerwise: float | None


class OutOfMemory(TypedDict):
    """A step that did not fit into the device's memory. `text`: text tokens of each sample of the batch."""

    label: str
    text: list[int]


class TrainingDocument(Provenance):
    """A file of `bench-train`, with a row for each method, batch and way that fitted into memory."""

    schema: int
    kind: Literal["training"]
    model: str
    device: str
    dtype: str
    memory_kept: bool
    rows: list[StepRow]
    out_of_memory: list[OutOfMemory]


def _complete(document: dict[str, Any]) -> None:
    """Files of schema 1 have one prompt and one budget, statistics without the timings, and fewer of them.

    Files of schema 2 have fewer intervals.
    """
    add(document, compiled=False, commit=None)
    if document.get("schema") == 1:
        _complete_first(document)
    if document.get("schema") in (1, 2):
        for point in entries(document, "points"):
            ratio = point.get("vanilla_over_transformers")
            if isinstance(ratio, float):
                point["vanilla_over_transformers"] = {"ratio": ratio, "low": None, "high": None}
        for row in entries(document, "rows"):
            add(row, of_layerwise=None)


def _complete_first(document: dict[str, Any]) -> None:
    add(document, weight_bytes=None, points_left=0, methods={}, source=None, code=None)
    settings, budget = _fields(document, "settings"), document.get("budget")
    asked = f"{budget:g}" if isinstance(budget, float | int) else None
    text, date = settings.get("text_tokens"), document.get("date")
    shared = {
        "text_tokens": text,
        "images": 1,
        "out_of_memory": False,
        "ceilings": document.get("ceilings"),
        "date": date,
        "seconds": 0.0,
    }
    ratios = _fields(document, "vanilla_over_transformers")
    points = [
        {"batch": int(b), "vanilla_over_transformers": ratio, **shared} for b, ratio in ratios.items() if b.isdecimal()
    ]
    document["points"] = points
    document["settings"] = {
        **settings,
        "batch": [point["batch"] for point in points],
        "text": [text],
        "images": [1],
        "new": [],
        "budget": [asked],
        "steps": settings.get("new_tokens"),
    }
    rows = entries(document, "rows")
    for row in rows:
        _complete_row(row, asked)
    for row in rows:
        _compare_row(row, rows)


def _complete_row(row: dict[str, Any], budget: str | None) -> None:
    for name in ("ttft_ms", "prefill_ms", "selection_ms", "decode_ms", "vision_ms"):
        times = row.get(name)
        if isinstance(times, dict) and "median" in times:
            times["p50"] = times.pop("median")
    decode = row.pop("decode_ms", None)
    nothing = {"weights": 0.0, "cache": 0.0, "matmul": 0.0, "attention": 0.0}
    add(
        row,
        captured=False,
        budget=budget,
        images=1,
        itl_ms=decode,
        tpot_ms=decode,
        vision_ms=None,
        vision_share=None,
        largest_batch=None,
        joules=None,
        requests=[],
        least_parts_ms={"prefill": nothing, "decode": nothing},
        of_decode_limit=0.0,
    )


def _compare_row(row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The speed-ups over vanilla of the same batch and kind of run, without intervals."""
    same = ("batch", "captured")
    vanilla = next(
        (one for one in rows if one.get("method") == "vanilla" and all(one.get(k) == row.get(k) for k in same)), {}
    )

    def ratio(name: str) -> dict[str, Any] | None:
        ours, theirs = (_fields(one, name).get("p50") for one in (row, vanilla))
        known = isinstance(ours, float) and isinstance(theirs, float) and ours > 0
        return {"ratio": theirs / ours, "low": None, "high": None} if known else None  # type: ignore[operator]

    row["speed_ups"] = {name: ratio(f"{name}_ms") for name in ("prefill", "ttft", "tpot")}


def _fields(data: dict[str, Any], name: str) -> dict[str, Any]:
    found = data.get(name)
    return found if isinstance(found, dict) else {}


def _complete_training(document: dict[str, Any]) -> None:
    """Files of schema 1 hold one batch, and its text tokens once."""
    text = document.pop("text", None) if document.get("schema") == 1 else None
    add(document, out_of_memory=[])
    for row in entries(document, "rows") if text is not None else ():
        add(row, text=text)


BENCH = FileKind(
    "a file of the command bench",
    BenchDocument,
    schema=SCHEMA,
    oldest=1,
    command="bench",
    complete=_complete,
)
TRAINING = FileKind(
    "a file of the command bench-train",
    TrainingDocument,
    schema=TRAINING_SCHEMA,
    oldest=1,
    command="bench-train",
    kind="training",
    complete=_complete_training,
)
