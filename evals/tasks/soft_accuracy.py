"""VQA's soft accuracy, and the tasks whose documents have the answers of ten people."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from evals.tasks.base import Answer, Doc, Task, empty, no_text

# An answer counts fully if three others agree, so that with fewer references a right answer is not right.
REFERENCES = 4


class SoftAccuracy(Task):
    """A task of short answers: an answer's score (0-1) grows with the number of people who gave it."""

    metric = "vqa_accuracy"
    soft = True

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        return no_text(doc, "question") or references_problem(doc["answers"])

    def target(self, doc: Doc) -> Any:
        return doc["answers"]

    def normalised(self, text: str, protocol: str) -> str:
        """How an answer and the references are written before they are compared."""
        return evalai()(text)

    def reading(self, answer: Answer, protocol: str) -> str:
        return self.normalised(answer.text, protocol)

    def sample_score(self, answer: Answer, reading: str, protocol: str) -> float:
        return soft_accuracy(reading, [self.normalised(text, protocol) for text in self.target(answer.doc)])


def soft_accuracy(reading: str, references: Sequence[str]) -> float:
    """The mean over all ways to leave one reference out of min(1, agreeing others / 3), for normalised texts."""
    agreeing = references.count(reading)
    return fmean(min(1.0, (agreeing - (other == reading)) / 3) for other in references)


def references_problem(said: Any) -> tuple[str, str] | None:
    """The column `answers` and the reason, if these are not texts that an answer can be compared with."""
    if not isinstance(said, list | None) or not all(isinstance(text, str) for text in said or ()):
        return "answers", "not a list of texts"
    if len(said or ()) < REFERENCES:
        return "answers", f"{len(said or ())} of at least {REFERENCES} references that VQA's accuracy needs"
    if all(map(empty, said or ())):
        return "answers", "all references are empty"
    return None


@functools.cache
def evalai() -> Callable[[str], str]:
    """EvalAI's normalisation: case, articles, number words, contractions and punctuation.

    It is a table of contractions and number words; lmms-eval ships the one everybody uses.
    """
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    # Cached, because the ten people often agree and every row of a matrix is compared with the same ten answers.
    return functools.lru_cache(1 << 16)(EvalAIAnswerProcessor())
