"""The result document: the types of what `leaderboard.json` holds and `--json` prints, and how it is read.

`evals.store.document` builds it, and every reader gets it from `RESULTS`, which checks it against these types.
A percentage is 0-100, a time is in the unit of its name, and None means not measured, or not finite.
"""

from __future__ import annotations

from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,  # before Python 3.12 pydantic cannot read typing's TypedDict
)

from pydantic import Field
from typing_extensions import TypedDict

from evals.profiling.ratios import SpeedUps
from evals.store.json_files import FileKind, add, entries

SCHEMA = 1

# A file of judgements, a function of the user's, or lmms-eval's own functions.
JudgeKind = Literal["file", "function", "official"]
WholeNumber = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0)]
Budget = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(e[+-]?\d+)?%?$")]  # "64" or "11%", as a matrix states it
Layers = Annotated[list[WholeNumber], Field(min_length=1)]  # a number of visual tokens for each layer
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class Hardware(TypedDict):
    """See `hidrop.provenance.describe`. The fields of a GPU are absent for a run on a CPU."""

    device: str
    cpu: str
    cores: WholeNumber
    threads: WholeNumber
    memory_bytes: WholeNumber | None
    gpu: NotRequired[str]
    gpu_memory_bytes: NotRequired[WholeNumber]
    cuda: NotRequired[str | None]


class Provenance(TypedDict):
    """Where and when a file of results was made, and with which code and libraries."""

    hardware: Hardware
    versions: dict[str, str | None]
    commit: str | None
    date: str


class RowEntry(TypedDict):
    """What is known of a row before it runs, equal for all its cells. `group`: its label without a seed.

    share: the mean over the samples of average_tokens over the sample's visual tokens. share_of_total: the sum of the
    first over the sum of the second; only where the samples' numbers of visual tokens differ.
    """

    model: str
    method: str
    label: str
    group: str
    trained: bool
    adaptive: bool
    average_tokens: float
    share: Share
    share_of_total: NotRequired[Share]
    kept: WholeNumber | None
    budget: Budget | None
    entering: Layers
    nominal: NotRequired[bool]  # nobody stated the image that image_tokens, kept and entering are of
    image_tokens: WholeNumber | None  # of one image without reduction; None in files from before it was written
    code: NotRequired[str]  # of a method outside of hidrop: where its class is, and its source's digest


class VanillaComparison(TypedDict):
    """A cell against its model's vanilla, on the same samples; see `evals.store.statistics`.

    p, p_holm, gained, lost: None for a task without a score of each sample.
    """

    difference: float
    interval: Interval
    p: float | None
    p_holm: float | None
    gained: WholeNumber | None
    lost: WholeNumber | None
    loyalty: float


class CellStats(TypedDict):
    """The 95 % interval of a cell's value, and its comparison. `yes_ratio`: of yes-or-no tasks only."""

    interval: Interval
    yes_ratio: NotRequired[float]
    against: NotRequired[VanillaComparison]


class CellEntry(RowEntry):
    """One number of the table: a row in a task. `base`: the key of the vanilla cell that it is compared with.

    provenance: where, when and with what its samples were answered, one entry for each session; empty if its journal
    does not say. Files from before it was written lack it: then the document's own counts.
    """

    task: str
    metric: str
    value: float | None
    unscored: NotRequired[str]  # why there is no value: "to submit" or "to judge"
    judge: NotRequired[str]  # who scored the answers later
    judge_kind: NotRequired[JudgeKind]
    extra: dict[str, float | None]
    n: WholeNumber
    n_failed: WholeNumber
    warnings: list[str]
    percent_of_vanilla: float | None
    flops: WholeNumber
    paper_macs: WholeNumber
    kv_bytes: WholeNumber
    text_tokens: float | None
    seconds: float  # of generation; the other two are left out of cells from before they were written
    preparing_seconds: NotRequired[float]
    scoring_seconds: NotRequired[float]
    id: str | None  # the identity hash of its journal
    base: str | None
    weights: NotRequired[str]  # the digest of its model's weights and of all files next to them that count
    decoding: NotRequired[dict[str, Any] | str]  # the task's settings, or the version of lmms-eval that has them
    older: NotRequired[list[str]]  # of a cell that --keep-cells took: the parts of its identity that differ today
    ends: NotRequired[list[WholeNumber]]  # the tokens that end an answer; empty: the tokenizer's end token
    protocol: NotRequired[str]  # of its task, where it is not the document's
    own_scale: NotRequired[bool]  # the value is what lmms-eval's task gives, on its own scale, and not 0 to 100
    lower_is_better: NotRequired[bool]
    captured: NotRequired[bool]  # whether it ran by CUDA graphs, where the matrix asks for them
    compiled: NotRequired[bool]  # with compiled norms and MLPs
    batch_size: NotRequired[WholeNumber]  # where the document's is auto
    asked_as: NotRequired[str]  # the model class of lmms-eval whose prompt and pixels it has
    pixels: NotRequired[dict[str, WholeNumber | str]]  # the limits of an image's pixels that the matrix states
    film: NotRequired[dict[str, Any]]  # which frames of a video are shown (`hidrop.videos.Sampling`)
    stats: NotRequired[CellStats]
    provenance: NotRequired[list[Provenance]]


class CorrelationEntry(TypedDict):
    """How much the values of a task's rows move together over the draws of the bootstrap; rows with the same samples.

    rows: model/label of each. upper: for each of them its correlation with the rows after it.
    """

    task: str
    rows: list[str]
    upper: list[list[Annotated[float, Field(ge=-1, le=1)]]]


class Milliseconds(TypedDict):
    """Repeated timings: median, 95th percentile and minimum."""

    median: float
    p95: float
    min: float


class ProfileEntry(TypedDict):
    """The timing of a row at one batch size; see `evals.profiling.record.Measurement`."""

    model: str
    method: str
    label: str
    batch: Annotated[int, Field(ge=1, lt=2**63)]
    text_tokens: WholeNumber
    new_tokens: WholeNumber
    repeats: WholeNumber
    ttft_ms: Milliseconds
    prefill_ms: Milliseconds
    prefill_source: Literal["features", "difference"]
    selection_ms: NotRequired[Milliseconds]
    decode_ms: Milliseconds
    entering: Layers
    flops: WholeNumber
    paper_macs: WholeNumber
    kv_bytes: WholeNumber
    peak_bytes: WholeNumber
    vision_ms: NotRequired[Milliseconds | None]
    speed_ups: NotRequired[SpeedUps | None]


class FailureEntry(RowEntry):
    """A cell that failed, or (`task` None) a timing. `traceback`: the file that holds it."""

    task: str | None
    error: str
    traceback: str


class ResultDocument(Provenance):
    """Everything that a run of a matrix found. `reference`: files of published numbers to print next to it.

    `data_versions`: the version of a task's data, for tasks that were asked with another one than the usual.
    `groups`: the tasks of each group or tag of lmms-eval that the matrix named.
    `protocols`: by task, where a task has another protocol than the document.
    `data_rows`: the number of documents in a task's files, with a limit too; only for other data than the embedded one.
    `own_tasks`: the YAML file of each task of the user's own, as the matrix names it. A command that reads the document
    adds these tasks where the files are there (`evals.tasks.registry.add_files`).
    """

    schema: int
    matrix: str
    out: str
    protocol: str
    limit: WholeNumber | None
    budget_reading: Literal["average", "kept"]
    dtype: str
    attention: str
    batch_size: WholeNumber | Literal["auto"]  # with auto each cell has its number
    sources: dict[str, str]
    data: dict[str, str]
    cells: list[CellEntry]
    profiles: list[ProfileEntry]
    failed: list[FailureEntry]
    correlations: NotRequired[list[CorrelationEntry]]
    data_versions: NotRequired[dict[str, str]]
    protocols: NotRequired[dict[str, str]]
    groups: NotRequired[dict[str, list[str]]]
    data_rows: NotRequired[dict[str, WholeNumber]]
    own_tasks: NotRequired[dict[str, str]]
    command: NotRequired[str]
    reference: NotRequired[str | list[str]]


def _complete(document: dict[str, Any]) -> None:
    """Add what the first files of schema 1 lack, with the value that it had then."""
    add(document, budget_reading="average", sources={}, data={}, commit=None)
    for entry in (*entries(document, "cells"), *entries(document, "failed")):
        add(entry, group=entry.get("label"), adaptive=False, image_tokens=None)
    for cell in entries(document, "cells"):
        add(cell, warnings=[], id=None, base=None, text_tokens=None)


RESULTS = FileKind(
    "a result document",
    ResultDocument,
    schema=SCHEMA,
    oldest=1,
    command=None,
    then="finished cells are not run twice",
    complete=_complete,
)


def protocol_of(document: ResultDocument, task: str) -> str:
    """The protocol under which a task was asked."""
    return document.get("protocols", {}).get(task, document["protocol"])


def batch_size_of(document: ResultDocument, entry: CellEntry) -> int | str:
    """The samples of a batch in which a cell was answered."""
    return entry.get("batch_size", document["batch_size"])


def cell_key(entry: CellEntry) -> str:
    """model/label/task of a cell, like `Cell.key` of a matrix."""
    return f"{entry['model']}/{entry['label']}/{entry['task']}"
