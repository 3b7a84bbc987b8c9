"""VizWiz-VQA: questions that blind people asked about photos they took, with ten people's answers to each."""

from __future__ import annotations

from typing import Any

from evals.tasks.base import Answer, Doc, Source
from evals.tasks.soft_accuracy import SoftAccuracy, evalai
from evals.tasks.submitted import Submitted
from hidrop.prompts import SHORT_ANSWER

UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."


class VizWizVal(SoftAccuracy):
    """About 4,319 questions of the validation split, scored by VQA's soft accuracy. Each has an image of its own.

    Papers print the test split, which only a server scores; LLaVA has no script for this one. Under its protocol the
    questions are in the wording of its test file.
    """

    name = "vizwiz_vqa_val"
    title = "VizWiz (val)"
    source = Source(
        repository="lmms-lab-encoder/VizWiz-VQA",
        split="val",
        folder="vizwiz",
        files="data/val-*.parquet",
        columns=("question", "question_id", "answers", "image"),
        rows=4319,
        megabytes=2100,
    )
    image_columns = ("question_id",)

    def question(self, doc: Doc) -> str:
        return _asked(doc)


class VizWizTest(Submitted):
    """8,000 questions of the test split, which a server scores. Papers print the score of its phase test-dev."""

    name = "vizwiz_vqa_test"
    title = "VizWiz"
    source = Source(
        repository="lmms-lab-encoder/VizWiz-VQA",
        split="test",
        folder="vizwiz",
        files="data/test-*.parquet",
        columns=("question", "question_id", "image"),
        rows=8000,
        megabytes=4000,
    )
    image_columns = ("question_id",)
    lmms_folder = "vizwiz_vqa"
    server = "EvalAI challenge 2185, https://eval.ai/web/challenges/challenge-page/2185"

    def question(self, doc: Doc) -> str:
        return _asked(doc)

    def entry(self, answer: Answer, protocol: str) -> dict[str, Any]:
        """LLaVA's file and lmms-eval's name the image, such as VizWiz_test_00000000.jpg, and normalise the answer."""
        image = str(answer.doc["question_id"]).removesuffix(".jpg")
        return {"image": f"{image}.jpg", "answer": evalai()(answer.text)}


def _asked(doc: Doc) -> str:
    """LLaVA's wording, which is lmms-eval's too."""
    return f"{str(doc['question']).capitalize()}\n{UNANSWERABLE}\n{SHORT_ANSWER}"
