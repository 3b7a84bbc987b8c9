"""VizWiz-VQA: questions that blind people asked about photos they took, with ten people's answers to each."""

from __future__ import annotations

from evals.tasks.base import Doc, Source
from evals.tasks.soft_accuracy import SoftAccuracy
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
        return f"{str(doc['question']).capitalize()}\n{UNANSWERABLE}\n{SHORT_ANSWER}"
