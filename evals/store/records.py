"""The lines of a journal: the types that others rely on, and the check of a line against them. See docs/guarantees.md.

A field that a type does not name is kept, so that a later version may add some.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NotRequired,  # before Python 3.12 pydantic cannot read typing's TypedDict
    cast,
)

from typing_extensions import TypedDict

from evals.store.kept_tokens import unpack
from hidrop import strict_json

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SampleKey = str | int | None


class CellHeader(TypedDict):
    """The first line: which cell it is, by everything that changes its numbers. `id`: the identity's hash."""

    kind: Literal["cell"]
    schema: int
    id: str
    identity: dict[str, Any]


class ProvenanceRecord(TypedDict):
    """Where and with what the answers after it were made: see `hidrop.provenance`. `commit` ends with "+" if the code
    was changed since. `date`: of the first of these answers.
    """

    kind: Literal["provenance"]
    hardware: dict[str, Any]
    versions: dict[str, str | None]
    commit: str | None
    date: str


LayerNumbers = list[float | None]  # a number for each layer; None: not defined there


class ProbeRecord(TypedDict):
    """What an analysis measured on one sample; see `evals.analysis`.

    intra: by kind of token. ilvas: by the number of layers between the two. top: the most attended visual tokens of
    each layer. exits: the answers when a share (the key) of the visual tokens leaves before each layer.
    inject: the answers when they enter before each layer.
    """

    intra: dict[str, LayerNumbers]
    cross: LayerNumbers | None
    mass: LayerNumbers
    ilvas: dict[str, LayerNumbers]
    top: list[list[int]]
    exits: dict[str, list[str]]
    inject: list[str] | None


class AnswerRecord(TypedDict):
    """What the model answered to a sample. `milliseconds`: the sample's share of its batch's generation.

    preparing_ms: its share of the time before that, for questions and images. Older records lack it.
    error: why there is no answer; None if there is one.
    entering: visual tokens of each layer, where they were not those of the row's plan.
    kept: the tokens that stayed after each cut, as `evals.store.kept_tokens.Cuts`.
    panels: of each image and tile, in the order of the tokens, its grids (see `Panel`). Older records lack them.
    whole: whether the tokens cover all of an image, or the part that the protocol shows.
    probe: what an analysis measured on the sample.
    """

    kind: Literal["answer"]
    doc_id: int
    answer: str
    batch: int
    prompt_tokens: int
    visual_tokens: int
    milliseconds: float
    error: str | None
    task: NotRequired[str]
    prompt_hash: NotRequired[str | None]
    new_tokens: NotRequired[int]
    preparing_ms: NotRequired[float]
    entering: NotRequired[list[int] | None]
    kept: NotRequired[list[Any] | None]
    panels: NotRequired[list[list[list[int]]]]
    whole: NotRequired[bool]
    probe: NotRequired[ProbeRecord | None]


class ScoreRecord(TypedDict):
    """How a sample's answer was read and scored (0-1). `group`: samples that count together (MMBench's rotations).

    score: None where a task scores no single sample. weight: what a score of 1 is in the value of a task without a
    class of its own (`evals.tasks.generic`), times the number of samples; a sample without it counts 0 there.
    First-class tasks write none. digits: to which the task rounds its value. item: what lmms-eval's task made of the
    sample for its metric, where that is not the score itself. metric: the metric with its filter ("acc,none"), of each
    sample that has it; the judgements of a file or a function have none.
    """

    kind: Literal["score"]
    doc_id: int
    reading: str | None
    target: Any
    score: float | None
    image_key: SampleKey
    category: SampleKey
    group: SampleKey
    weight: NotRequired[float]
    digits: NotRequired[int]
    item: NotRequired[Any]
    metric: NotRequired[str]


class PromptGroup(TypedDict):
    """Prompts of a cell that are alike: text and visual tokens, and `entering` where it was not the row's plan."""

    text: int
    visual: int
    entering: list[int] | None
    count: int


class ResultRecord(TypedDict):
    """The last line of a finished cell. `n_empty`, `n_distinct`: answers without text, and different answers.

    seconds: of generation, in all sessions and processes. preparing_seconds: of questions and images, as far as the
    model waited for them. scoring_seconds: of loading the task and scoring it, in the last session.
    value: None for a task that is not scored here: `unscored` says why (see `evals.tasks.base.Task`). judge: who gave
    the scores later, when, and of which kind (`name`, `date`, `kind`: see `evals.store.judging`).
    """

    kind: Literal["result"]
    metric: str
    value: float | None
    unscored: NotRequired[str]
    judge: NotRequired[dict[str, str]]
    extra: dict[str, Any]
    n: int
    n_failed: int
    n_empty: NotRequired[int]
    n_distinct: NotRequired[int]
    prompts: list[PromptGroup]
    dtype: str
    seconds: float
    preparing_seconds: NotRequired[float]
    scoring_seconds: NotRequired[float]


SampleRecord = ProvenanceRecord | AnswerRecord | ScoreRecord | ResultRecord
KINDS: dict[str, Any] = {
    "cell": CellHeader,
    "provenance": ProvenanceRecord,
    "answer": AnswerRecord,
    "score": ScoreRecord,
    "result": ResultRecord,
}


class ScoredAnswer(AnswerRecord, ScoreRecord):  # type: ignore[misc]  # both have a `kind`, which is not used here
    """A sample's answer with its score."""


def parsed(line: bytes) -> CellHeader | SampleRecord:
    """The record in a line. Raises ValueError, naming the field, for a line that is not a record."""
    try:
        record = strict_json.value(line)
        if b"\\ud" in line.lower():  # half a character cannot be written again
            json.dumps(record, ensure_ascii=False).encode()
        return checked(record)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def header(line: bytes) -> CellHeader:
    """The header in a journal's first line. Raises ValueError for any other line."""
    record = parsed(line)
    if record["kind"] != "cell":
        raise ValueError(f"not a journal's first line: its kind is {record['kind']!r}")
    return record


def sample(line: bytes) -> SampleRecord:
    """The record in any other line. Raises ValueError for a header, and for a line that is not a record."""
    record = parsed(line)
    if record["kind"] == "cell":
        raise ValueError("a second header")
    return record


def checked(record: Mapping[str, Any]) -> CellHeader | SampleRecord:
    """The record itself, if it is one. Raises ValueError like `parsed`."""
    from pydantic import ValidationError

    kind = record.get("kind") if isinstance(record, Mapping) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"not a record of a journal: its kind is {kind!r}")
    try:
        _adapter(kind).validate_python(record, strict=True)
    except ValidationError as error:
        from evals.store.json_files import problems

        raise ValueError(problems(error)) from None
    known = cast("CellHeader | SampleRecord", record)
    if known["kind"] == "answer":
        _check_counts(known.get("entering"))
        _check_kept(known.get("kept"), known["visual_tokens"])
        if (panels := known.get("panels")) is not None:
            _check_panels(panels, known["visual_tokens"])
    elif known["kind"] == "score":
        if known["score"] is not None and not 0 <= known["score"] <= 1:
            raise ValueError(f"score is {known['score']!r}, not 0 to 1")
    elif known["kind"] == "result":
        if known["value"] is None and "unscored" not in known:
            raise ValueError("value is None, and `unscored` does not say why")
        for prompts in known["prompts"]:
            _check_counts(prompts["entering"])
    return known


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    """The check of a kind of record. pydantic is imported with the first record: `--help` does without it."""
    from pydantic import ConfigDict, TypeAdapter, with_config

    return TypeAdapter(with_config(ConfigDict(allow_inf_nan=False))(KINDS[kind]))


def _check_counts(entering: list[int] | None) -> None:
    if any(count < 0 for count in entering or ()):
        raise ValueError(f"entering is {entering!r}: a number of tokens is below 0")


def _check_kept(kept: list[Any] | None, tokens: int) -> None:
    """Pairs of a layer and, in base64, a bit for each visual token: see `evals.store.kept_tokens`."""
    for pair in kept or ():
        if not isinstance(pair, (list, tuple)) or [type(part) for part in pair] != [int, str]:
            raise ValueError(f"kept holds {pair!r}, which is not a layer and its tokens")
        unpack(pair[1], tokens)


def _check_panels(panels: list[list[list[int]]], tokens: int) -> None:
    """Frames, rows, columns of places and other tokens after each row, of as many tokens as the sample has."""
    each = [panel for image in panels for panel in image]
    if any(len(panel) != 4 or min(panel) < 0 for panel in each):
        raise ValueError(f"panels is {panels!r}: a grid is four numbers of 0 or more")
    if (found := sum(frames * rows * (columns + others) for frames, rows, columns, others in each)) != tokens:
        raise ValueError(f"panels is {panels!r}, of {found} tokens, and the sample has {tokens}")


def contradiction(records: Sequence[SampleRecord]) -> str | None:
    """The contradiction between a cell's records, or with its result, in words. None without one."""
    answers = [record["doc_id"] for record in records if record["kind"] == "answer"]
    answered = set(answers)
    if len(answered) < len(answers):
        return f"{len(answers) - len(answered)} samples are answered twice"
    results = [record for record in records if record["kind"] == "result"]
    if not results:
        return None
    scored = [record["doc_id"] for record in records if record["kind"] == "score"]
    if len(results) > 1 or records[-1]["kind"] != "result":
        return "its result is not its last line"
    if len(scored) != results[0]["n"] or len(set(scored)) != len(scored):
        return f"its result is of {results[0]['n']} samples and {len(set(scored))} are scored"
    return None if answered >= set(scored) else "samples are scored that have no answer"
