"""TextVQA, validation: questions about text in images, with ten people's answers to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from evals.tasks.base import LLAVA, Doc, ProtocolName, Source
from evals.tasks.soft_accuracy import SoftAccuracy
from hidrop.prompts import SHORT_ANSWER


class TextVQA(SoftAccuracy):
    """5,000 questions, scored by VQA's soft accuracy. Under LLaVA's protocol the prompt lists the image's OCR words.

    LLaVA's question file has all questions capitalised ("What is the brand?"). The official data is in lower case.
    """

    name = "textvqa_val"
    title = "TextVQA"
    source = Source(
        repository="lmms-lab-encoder/textvqa",
        split="validation",
        folder="textvqa",
        files="data/validation-*.parquet",
        columns=("question", "question_id", "answers", "ocr_tokens", "image"),
        rows=5000,
        megabytes=920,
    )
    revisions: ClassVar[Mapping[ProtocolName, int]] = {LLAVA: 1}  # 1: questions are capitalised
    id_columns = ("image_id", "question_id")  # LLaVA's answers file has the image's id there
    export_yaml = "metric_list:\n  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"

    def question(self, doc: Doc) -> str:
        question, words = str(doc["question"]).capitalize(), ", ".join(doc["ocr_tokens"] or ())
        return f"{question}\nReference OCR token: {words}\n{SHORT_ANSWER}"

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        if found := super().row_problem(doc):
            return found
        words = doc["ocr_tokens"]
        if not isinstance(words, list | None) or not all(isinstance(text, str) for text in words or ()):
            return "ocr_tokens", "not a list of texts"
        return None
