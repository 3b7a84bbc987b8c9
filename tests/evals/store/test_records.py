"""The lines of a journal, one by one: what is a record, and what contradicts a result."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evals.store.records import SampleRecord, checked, contradiction, header, parsed, sample
from tests.evals.world import ANSWER, SCORE, result_of

RECORDS: dict[str, dict[str, Any]] = {
    "cell": {"kind": "cell", "schema": 3, "id": "abc", "identity": {"task": "gqa"}},
    "answer": {"kind": "answer", "doc_id": 3, **ANSWER, "entering": [16, 8], "kept": [[2, "8AA="]]},
    "score": {"kind": "score", "doc_id": 3, **SCORE},
    "result": {"kind": "result", **result_of(1), "n_empty": 0, "n_distinct": 1},
}
OPTIONAL = {"entering", "kept", "n_empty", "n_distinct"}
PROBE: dict[str, Any] = {
    "intra": {"visual": [0.5, None]}, "cross": None, "mass": [0.1], "ilvas": {"4": [0.2]}, "top": [[1, 2]],
    "exits": {"1": ["yes"]}, "inject": None,
}  # fmt: skip


def line(record: Any) -> bytes:
    return json.dumps(record).encode()


def refused(kind: str, /, **changes: Any) -> str:
    with pytest.raises(ValueError) as caught:
        checked({**RECORDS[kind], **changes})
    return str(caught.value)


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_is_itself_with_fields_of_a_later_version(kind: str) -> None:
    record = {**RECORDS[kind], "later": {"x": [1]}}
    assert checked(record) is record
    assert parsed(line(record)) == record


@pytest.mark.parametrize("kind", RECORDS)
def test_every_field_is_needed_and_named_when_it_is_missing(kind: str) -> None:
    for name in RECORDS[kind].keys() - {"kind"}:
        record = {key: value for key, value in RECORDS[kind].items() if key != name}
        if name in OPTIONAL:
            assert checked(record) == record
        else:
            with pytest.raises(ValueError, match=f"^{name} is missing$"):
                checked(record)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("cell", {"schema": "2"}, "schema: input should be a valid integer, not '2'"),
        ("cell", {"identity": []}, "identity: input should be a valid dictionary"),
        ("answer", {"doc_id": 1.0}, "doc_id: input should be a valid integer"),
        ("answer", {"error": 1}, "error: input should be a valid string"),
        ("answer", {"milliseconds": float("inf")}, "milliseconds: input should be a finite number"),
        ("answer", {"entering": [1, "2"]}, "entering[1]: input should be a valid integer"),
        ("answer", {"entering": [3, -1]}, "entering is [3, -1]: a number of tokens is below 0"),
        ("answer", {"kept": [[2]]}, "kept holds [2], which is not a layer and its tokens"),
        ("answer", {"kept": [["2", "8AA="]]}, "kept holds ['2', '8AA='], which"),
        ("answer", {"kept": [[True, "8AA="]]}, "kept holds [True, '8AA='], which"),
        ("answer", {"kept": [2]}, "kept holds 2, which"),
        ("answer", {"kept": [[2, "8A=="]]}, "'8A==' has less than 16 bits"),
        ("answer", {"kept": [[2, "!"]]}, "base64"),
        ("answer", {"probe": {**PROBE, "top": [1]}}, "probe.top[0]: input should be a valid list"),
        ("score", {"score": True}, "score: input should be a valid number"),
        ("score", {"group": [1]}, "group.str: "),
        ("result", {"prompts": [{"text": 1}]}, "prompts[0].visual is missing; prompts[0].entering is missing"),
        (
            "result",
            {"prompts": [{"text": 1, "visual": 1, "entering": [-2], "count": 1}]},
            "entering is [-2]: a number of tokens is below 0",
        ),
        ("result", {"value": None}, "value is None, and `unscored` does not say why"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(kind: str, changes: dict[str, Any], message: str) -> None:
    said = refused(kind, **changes)
    assert said.startswith(message) or (message == "base64" and "base64" in said)


def test_counts_and_kept_tokens_belong_to_an_answer_alone() -> None:
    """Other kinds may get fields of these names in a later version."""
    for kind in ("score", "cell"):
        record = {**RECORDS[kind], "entering": "anything", "kept": 5}
        assert checked(record) is record
    for value in (None, [], [16, 0]):
        assert checked({**RECORDS["answer"], "entering": value, "kept": None if value else value})
    assert checked({**RECORDS["answer"], "probe": PROBE, "task": "gqa", "prompt_hash": None, "new_tokens": 2})


@pytest.mark.parametrize("record", [None, 5, [], "kind", {}, {"kind": 5}, {"kind": ["answer"]}, {"kind": "other"}])
def test_anything_else_is_not_a_record(record: Any) -> None:
    for read in (parsed, header, sample):
        with pytest.raises(ValueError, match="^not a record of a journal: its kind is"):
            read(line(record))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "Expecting value"),
        (b'{"kind": "answer"', "delimiter"),
        (b'{"kind": "score", "score": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "^nested too deeply$"),
        (line({**RECORDS["answer"], "answer": "\ud800"}), "surrogates not allowed"),
        (line({**RECORDS["answer"], "answer": "\ud800"}).replace(b"d800", b"D800"), "surrogates not allowed"),
        (b"\xff", "codec can't decode"),
    ],
)
def test_a_line_that_is_not_json_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed(text)


def test_a_pair_of_half_characters_is_a_character() -> None:
    record = parsed(line({**RECORDS["answer"], "answer": "\U0001f600 größe"}))
    assert record["kind"] == "answer" and record["answer"] == "\U0001f600 größe"


def test_a_header_comes_first_and_only_there() -> None:
    assert header(line(RECORDS["cell"])) == RECORDS["cell"]
    for kind in ("answer", "score", "result"):
        assert sample(line(RECORDS[kind])) == RECORDS[kind]
        with pytest.raises(ValueError, match=f"^not a journal's first line: its kind is '{kind}'"):
            header(line(RECORDS[kind]))
    with pytest.raises(ValueError, match="^a second header$"):
        sample(line(RECORDS["cell"]))


def journal(answers: str, scores: str, n: int | None) -> list[Any]:
    """Records with these doc_ids, and a result of `n` samples (None: without one)."""
    records = [{**RECORDS["answer"], "doc_id": int(i)} for i in answers]
    records += [{**RECORDS["score"], "doc_id": int(i)} for i in scores]
    return records + ([] if n is None else [{**RECORDS["result"], "n": n}])


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([], None),
        (journal("012", "", None), None),
        (journal("012", "01", None), None),
        (journal("012", "012", 3), None),
        (journal("0123", "012", 3), None),
        (journal("012", "01", 3), "its result is of 3 samples and 2 are scored"),
        (journal("012", "012", 2), "its result is of 2 samples and 3 are scored"),
        (journal("012", "0122", 3), "its result is of 3 samples and 3 are scored"),
        (journal("012", "0112", 4), "its result is of 4 samples and 3 are scored"),
        (journal("01", "012", 3), "samples are scored that have no answer"),
        ([*journal("0", "0", 1), *journal("", "", 1)], "its result is not its last line"),
        ([*journal("0", "0", 1), *journal("1", "", None)], "its result is not its last line"),
    ],
)
def test_a_result_has_to_fit_what_is_before_it(records: list[SampleRecord], problem: str | None) -> None:
    assert contradiction(records) == problem
