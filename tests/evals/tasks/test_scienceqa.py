"""ScienceQA's prompts and readings, worked out by hand, and compared with lmms-eval's own functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.tasks import TaskSpec, evaluate, missing
from evals.tasks.base import Answer
from evals.tasks.checks import remarks
from evals.tasks.official_functions import functions
from evals.tasks.scienceqa import ScienceQA
from tests.evals.tasks.table import CASES, LETTER

TASK = ScienceQA()
DOCS = CASES["scienceqa_img"].documents
Write = Callable[[list[dict[str, Any]], Path], None]


@pytest.mark.parametrize("hint", ["", " ", None, float("nan")])
def test_an_empty_hint_has_no_line_of_its_own(hint: Any) -> None:
    doc = {"question": "Do they attract?", "choices": ["attract", "repel"], "answer": 0, "hint": hint}
    assert TASK.question(doc) == f"Do they attract?\nA. attract\nB. repel\n{LETTER}"


def test_five_options_have_five_letters() -> None:
    asked = f"Context: Pea plants.\nWhat is the ratio?\nA. 0:4\nB. 1:3\nC. 2:2\nD. 3:1\nE. 4:0\n{LETTER}"
    assert TASK.question(DOCS[2]) == asked and TASK.target(DOCS[2]) == "E"


@pytest.mark.parametrize("doc", DOCS)
def test_llavas_question_is_lmms_evals_default(doc: dict[str, Any]) -> None:
    kwargs = {"format": "default", "pre_prompt": "", "post_prompt": f"\n{LETTER}"}
    assert TASK.question(doc) == functions("scienceqa").sqa_doc_to_text(doc, kwargs)
    assert TASK.target(doc) == functions("scienceqa").sqa_doc_to_target(doc)


# An answer to a question with three options whose right one is B, and its readings: by LLaVA's rule, by lmms-eval's.
READINGS = [
    ("B", "B", "B"),
    (" B\n", "B", "B"),
    ("b", "", "B"),
    ("B. Huron", "B", "B"),
    ("B.", "", "B"),
    ("B.Huron", "", "B"),
    ("b. Huron", "", ""),
    ("(B)", "", ""),
    ("B Huron", "", ""),
    ("B, Huron", "", ""),
    ("Huron", "", ""),
    ("The answer is B.", "B", ""),
    ("I see a lake. The answer is B. It is large.", "B", ""),
    ("The answer is B", "", ""),  # LLaVA's pattern wants a character after the letter
    ("The answer is Both of them.", "B", ""),  # ... and any will do
    ("the answer is B.", "", ""),
    ("The answer is B. The answer is B.", "", ""),
    ("The answer is B. The answer is C.", "", ""),
    ("A. The answer is B.", "A", "A"),
    ("E", "E", "E"),  # not one of the options, but a letter of LLaVA's script
    ("F", "", "F"),
    ("", "", ""),
]


@pytest.mark.parametrize(("text", "llava", "lmms"), READINGS)
def test_each_protocol_reads_the_letter_by_its_own_rule(text: str, llava: str, lmms: str) -> None:
    for protocol, reading in (("llava", llava), ("lmms-eval", lmms), ("native", lmms)):
        scores = TASK.score([Answer(DOCS[0], text)], protocol)
        assert scores.readings == (reading,) and scores.samples == (float(reading == "B"),)


@pytest.mark.parametrize("text", [text for text, *_ in READINGS])
@pytest.mark.parametrize("doc", DOCS)
def test_scores_are_lmms_evals(doc: dict[str, Any], text: str) -> None:
    [official] = functions("scienceqa").sqa_process_results(doc, [text.strip()]).values()
    assert TASK.score([Answer(doc, text)], "lmms-eval").samples == (official,)


def test_the_value_is_the_share_of_right_answers() -> None:
    said = [Answer(doc, text) for doc, text in zip(DOCS, ("B", "The answer is A.", "E."), strict=True)]
    assert TASK.score(said, "llava").value == pytest.approx(200 / 3) and TASK.score(said, "llava").metric == "accuracy"
    assert TASK.score(said, "lmms-eval").value == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question": " "}, "column 'question': is empty"),
        ({"choices": []}, "column 'choices': 0 options"),
        ({"choices": ["a", ""]}, "column 'choices': not a list of texts"),
        ({"choices": list("abcdefghijklmnopqrstuvwxyza")}, "column 'choices': 27 options"),
        ({"answer": 3}, "column 'answer': '3' is not the place of one of its 3 options (from 0)"),
        ({"answer": -1}, "column 'answer': '-1' is not the place"),
    ],
)
def test_rows_that_cannot_be_asked_or_scored_are_named(
    change: dict[str, Any], words: str, tmp_path: Path, write_parquet: Write
) -> None:
    write_parquet([DOCS[1], DOCS[0] | change], tmp_path / "scienceqa/test.parquet")
    [problem] = missing(TaskSpec("scienceqa_img", str(tmp_path)))
    assert f"row 1 (from 0), {words}" in problem


@pytest.mark.parametrize("protocol", ["llava", "lmms-eval"])
def test_a_question_without_an_image_is_asked_as_text(
    protocol: str, tmp_path: Path, write_parquet: Write, oracle: Any
) -> None:
    documents = [DOCS[0], DOCS[1] | {"image": None}, DOCS[2] | {"image": None}]
    write_parquet(documents, tmp_path / "scienceqa/test.parquet")
    spec, lm = TaskSpec("scienceqa_img", str(tmp_path), protocol), oracle()
    assert missing(spec) == []
    assert "scienceqa_img: 2 of 3 rows have no image and are asked as text" in remarks(spec)
    result = evaluate(lm, spec)
    assert result.value == 100 and len(lm.contexts) == 3 and len(lm.colours) == 1
    # Each is a unit of its own for the bootstrap, and not one with all others that have no image.
    assert [sample["image_key"] for sample in result.samples[1:]] == ["document 1", "document 2"]


def test_a_split_of_text_alone_can_be_asked(tmp_path: Path, write_parquet: Write, oracle: Any) -> None:
    write_parquet([doc | {"image": None} for doc in DOCS], tmp_path / "scienceqa/test.parquet")
    assert evaluate(oracle(), TaskSpec("scienceqa_img", str(tmp_path))).value == 100


def test_a_broken_image_is_not_asked_as_text(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet([DOCS[0], DOCS[1] | {"image": {"bytes": b"", "path": None}}], tmp_path / "scienceqa/test.parquet")
    [problem] = missing(TaskSpec("scienceqa_img", str(tmp_path)))
    assert "row 1 (from 0), column 'image': no image (0 bytes)" in problem


def test_two_questions_may_differ_in_their_image_only(tmp_path: Path, write_parquet: Write) -> None:
    write_parquet([DOCS[1], DOCS[1] | {"image": DOCS[0]["image"], "answer": 1}], tmp_path / "scienceqa/test.parquet")
    assert missing(TaskSpec("scienceqa_img", str(tmp_path))) == []
