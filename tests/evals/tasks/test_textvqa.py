"""TextVQA's soft accuracy, worked out by hand."""

from __future__ import annotations

import pytest

from evals.tasks.base import Answer
from evals.tasks.textvqa import TextVQA

TASK = TextVQA()


def test_the_value_is_the_mean_and_readings_are_normalised() -> None:
    people = {"answers": ["yes"] * 2 + ["no"] * 8}
    said = [Answer(people, "Yes."), Answer(people, "The no"), Answer(people, "no", failed=True)]
    for protocol, metric in (("llava", "vqa_accuracy"), ("lmms-eval", "exact_match")):
        result = TASK.score(said, protocol)
        assert result.samples == pytest.approx((0.6, 1.0, 0.0)) and result.value == pytest.approx(160 / 3)
        assert result.readings == ("yes", "no", "no") and result.metric == metric


def test_an_image_without_text_has_an_empty_list_of_ocr_tokens() -> None:
    asked = TASK.question({"question": "What brand?", "ocr_tokens": None})
    assert asked == "What brand?\nReference OCR token: \nAnswer the question using a single word or phrase."


@pytest.mark.parametrize(
    ("official", "asked"),
    [
        ("what is the brand of this camera?", "What is the brand of this camera?"),
        ("what does IT say?", "What does it say?"),
        ("WHO is John Smith?", "Who is john smith?"),
        ("2 or 3?", "2 or 3?"),
    ],
)
def test_the_question_is_capitalised_as_in_llavas_file(official: str, asked: str) -> None:
    assert TASK.question({"question": official, "ocr_tokens": ["X"]}).split("\n")[0] == asked


def test_no_embedded_question_changes_by_capitalising() -> None:
    """The embedded models were trained on the questions as they are, so that the committed scores stay valid."""
    from hidrop.mini.test_sets import SETS

    _, rows, count = SETS["textvqa_val"]
    assert all(row["question"] == row["question"].capitalize() for row in rows(count))
