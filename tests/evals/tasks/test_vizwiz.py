"""VizWiz: its prompt, and its soft accuracy, worked out by hand and compared with lmms-eval's own function."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from evals.tasks import TaskSpec, evaluate
from evals.tasks.base import Answer
from evals.tasks.vizwiz import VizWizVal

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
