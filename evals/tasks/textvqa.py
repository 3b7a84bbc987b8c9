"""TextVQA, validation: questions about text in images, with ten people's answers to each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

from evals.tasks.base import LLAVA, Answer, Doc, ProtocolName, Source, Task, empty, no_text
from hidrop.prompts import SHORT_ANSWER

# An answer counts fully if three others agree, so that with fewer references a right answer is not right.
REFERENCES = 4


class TextVQA(Task):
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
    metric = "vqa_accuracy"
    id_columns = ("image_id", "question_id")  # LLaVA's answers file has the image's id there
    soft = True
    export_yaml = "metric_list:\n  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"

    def question(self, doc: Doc) -> str:
        question, words = str(doc["question"]).capitalize(), ", ".join(doc["ocr_tokens"] or ())
        return f"{question}\nReference OCR token: {words}\n{SHORT_ANSWER}"

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        if found := no_text(doc, "question"):
            return found
        said, words = doc["answers"], doc["ocr_tokens"]
        if not isinstance(said, list | None) or not all(isinstance(text, str) for text in said or ()):
            return "answers", "not a list of texts"
        if len(said or ()) < REFERENCES:
            return "answers", f"{len(said or ())} of at least {REFERENCES} references that VQA's accuracy needs"
        if all(map(empty, said or ())):
            return "answers", "all references are empty"
        if not isinstance(words, list | None) or not all(isinstance(text, str) for text in words or ()):
            return "ocr_tokens", "not a list of texts"
        return None

    def target(self, doc: Doc) -> Any:
        return doc["answers"]

    def reading(self, answer: Answer, protocol: str) -> str:
        return _evalai()(answer.text)

    def sample_score(self, answer: Answer, reading: str, protocol: str) -> float:
        return vqa_accuracy(answer.text, self.target(answer.doc))


@functools.cache
def _evalai() -> Callable[[str], str]:
    # The normalisation is a table of contractions and number words; lmms-eval ships the one everybody uses.
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    # Cached, because the ten people often agree and every row of a matrix is compared with the same ten answers.
    return functools.lru_cache(1 << 16)(EvalAIAnswerProcessor())


def vqa_accuracy(text: str, references: Sequence[str]) -> float:
    """VQA's soft accuracy: the mean over all ways to leave one reference out of min(1, agreeing others / 3).

    EvalAI's normalisation (case, articles, number words, contractions, punctuation) is applied to both sides.
    """
    reading, said = _evalai()(text), [_evalai()(r) for r in references]
    agreeing = said.count(reading)
    return fmean(min(1.0, (agreeing - (other == reading)) / 3) for other in said)
