"""VizWiz: its prompt, and its soft accuracy, worked out by hand and compared with lmms-eval's own function."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from evals.tasks import TaskSpec, evaluate, missing
from evals.tasks.base import Answer
from evals.tasks.vizwiz import VizWizTest, VizWizVal
from tests.evals.tasks.layout import put
from tests.evals.tasks.table import CASES

TASK = VizWizVal()
PROMPT = (
    "What is this thing?\n"
    "When the provided information is insufficient, respond with 'Unanswerable'.\n"
    "Answer the question using a single word or phrase."
)


def test_both_protocols_ask_the_same_text(data_folder: Path, oracle: Any) -> None:
    """LLaVA's file and lmms-eval both have the question capitalised."""
    for protocol in TASK.protocols:
        lm = oracle()
        evaluate(lm, TaskSpec("vizwiz_vqa_val", str(data_folder), protocol), limit=1)
        assert lm.contexts == [PROMPT]


def test_the_value_is_lmms_evals_own_on_odd_answers() -> None:
    from lmms_eval.tasks.vizwiz_vqa import utils

    docs = [
        {"question_id": "VizWiz_val_00000001", "answers": ["unanswerable"] * 6 + ["unsuitable"] * 4},
        {
            "question_id": "VizWiz_val_00000002",
            "answers": ["Coca Cola", "coca-cola", "the coke", "coke."] + ["soda"] * 6,
        },
        {"question_id": "VizWiz_val_00000003", "answers": ["10", "ten", "10.", "1,000", "$10"] + ["man's"] * 5},
    ]
    for text in ("Unanswerable", "unanswerable.", "The Coke", "coca cola", "Ten", "1000", "mans", "man's", ""):
        said = [Answer(doc, text) for doc in docs]
        official = [utils.vizwiz_vqa_process_results(copy.deepcopy(doc), [text])["exact_match"] for doc in docs]
        for protocol in TASK.protocols:
            assert TASK.score(said, protocol).samples == pytest.approx(official, abs=1e-15), text
    # Six of ten say it: everyone sees at least three others who do.
    assert TASK.score([Answer(docs[0], "Unanswerable")], "llava").value == 100


def test_each_question_has_an_image_of_its_own(data_folder: Path, oracle: Any) -> None:
    samples = evaluate(oracle(), TaskSpec("vizwiz_vqa_val", str(data_folder))).samples
    assert [sample["image_key"] for sample in samples] == ["VizWiz_val_00000000", "VizWiz_val_00000001"]


def test_the_servers_file_names_the_image_and_has_normalised_answers() -> None:
    from lmms_eval.tasks.vizwiz_vqa import utils

    task, texts = VizWizTest(), ["Unanswerable", "The Coke.", "", "Ten dollars"]
    docs = [{"question_id": f"VizWiz_test_{place:08d}", "question": "what?", "answers": None} for place in range(4)]
    said = [Answer(doc, text) for doc, text in zip(docs, texts, strict=True)]
    made = task.submission(said, "llava")
    assert made.name == "vizwiz_vqa_test.json" and "2185" in made.server
    assert json.loads(made.content) == [
        {"image": "VizWiz_test_00000000.jpg", "answer": "unanswerable"},
        {"image": "VizWiz_test_00000001.jpg", "answer": "coke"},
        {"image": "VizWiz_test_00000002.jpg", "answer": ""},
        {"image": "VizWiz_test_00000003.jpg", "answer": "10 dollars"},
    ]
    official = [utils.vizwiz_vqa_process_results(dict(answer.doc), [answer.text])["submission"] for answer in said]
    assert json.loads(task.submission(said, "lmms-eval").content) == official


def test_a_name_that_ends_as_a_file_does_is_not_given_a_second_ending() -> None:
    answer = Answer({"question_id": "VizWiz_test_00000000.jpg"}, "yes")
    assert VizWizTest().entry(answer, "llava") == {"image": "VizWiz_test_00000000.jpg", "answer": "yes"}


@pytest.mark.parametrize(
    ("change", "column"), [({"question": " "}, "question"), ({"question_id": None}, "question_id")]
)
def test_a_row_that_cannot_be_submitted_is_named(change: dict[str, Any], column: str, tmp_path: Path) -> None:
    documents = [dict(doc) for doc in CASES["vizwiz_vqa_test"].documents]
    documents[1] |= change
    put("vizwiz_vqa_test", tmp_path, documents)
    [problem] = missing(TaskSpec("vizwiz_vqa_test", str(tmp_path)))
    assert f"row 1 (from 0), column '{column}': is empty" in problem
