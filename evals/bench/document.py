"""Types of the files in results/bench/, which `bench` and `bench-train` write.

Times are in milliseconds, sizes in bytes. A speed-up is vanilla's time over the method's.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired  # before Python 3.12 pydantic cannot read typing's TypedDict

from typing_extensions import TypedDict

from evals.store.json_files import FileKind, add, entries
from evals.store.result_document import Layers, Milliseconds, Provenance

SCHEMA = 1
TRAINING_SCHEMA = 2


class CeilingsEntry(TypedDict):
    """See `evals.profiling.ceilings.Ceilings`."""

    bytes_per_second: float
    flops_per_second: float


class IdealSpeedUps(TypedDict):
    """Limits of the speed-up, see `evals.bench.inference`; also used for the parts of them that were reached."""

    layerwise: float | None
    physical: float
    flops: float


class BenchRow(TypedDict):
    """One method at one batch size. `captured`: run with CUDA graphs. `fields`: the method's fields.

    kv_bytes_planned: KV bytes of the method's plan; kv_bytes are measured.
    vision_ms: vision tower and projector alone; vision_share: their part of TTFT. None: captured, so that the tower was
    not timed apart. Older files lack both.
    selection_share, of_physical_limit: 0-1.
    """

    label: str
    method: str
    captured: bool
    fields: dict[str, Any]
    batch: int
    text_tokens: int
    new_tokens: int
    repeats: int
    ttft_ms: Milliseconds
    prefill_ms: Milliseconds
    prefill_source: Literal["features", "difference"]
    selection_ms: Milliseconds
    decode_ms: Milliseconds
    entering: Layers
    flops: int
    paper_macs: int
    kv_bytes: int
    peak_bytes: int
    vision_ms: NotRequired[Milliseconds | None]
    vision_share: NotRequired[float | None]
    average_tokens: float
    kv_bytes_planned: int
    tokens_per_second: float
    selection_share: float
    speed_up: float
    ideal_speed_up: IdealSpeedUps
    of_ideal: IdealSpeedUps
    layerwise_ms: float | None
    physical_ms: float
    of_physical_limit: float


class BenchDocument(Provenance):
    """A file of `bench`. vanilla_over_transformers: vanilla's prefill over transformers' forward, by batch size."""

    schema: int
    model: str
    device: str
    dtype: str
    attention: str
    memory_kept: bool
    compiled: bool
    budget: float
    sizes: dict[str, Any]
    ceilings: CeilingsEntry
    settings: dict[str, Any]
    vanilla_over_transformers: dict[str, float]
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
    """Add the fields that older files of `bench` lack."""
    add(document, compiled=False, commit=None)
    for row in entries(document, "rows"):
        add(row, captured=False)


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
