"""MMStar: questions that need the image, with four options, in six categories of three sub-categories each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from evals.tasks.base import Answer, Doc, Sample, Source, Statistic, Task, no_text
from evals.tasks.multiple_choice import LETTERS

if TYPE_CHECKING:
    import numpy as np


LEVEL2 = 18  # sub-categories


class MMStar(Task):
    """1,500 questions, 250 in each category. LLaVA has no script for it, so there is no protocol `llava`.

    lmms-eval's value is the mean of the accuracies in the 18 sub-categories, which differ in size. MMStar's paper has
    the mean over all questions: it is `accuracy`, next to the six categories.
    """

    name = "mmstar"
    title = "MMStar"
    source = Source(
        repository="Lin-Chen/MMStar",
        split="val",
        folder="mmstar",
        files="mmstar.parquet",
        columns=("index", "question", "answer", "category", "l2_category", "image"),
        rows=1500,
        megabytes=42,
    )
    official = "average"
    details = ("accuracy",)
    id_columns = key_columns = image_columns = ("index",)  # the unit of the statistics is a question

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        if found := no_text(doc, "question", "answer", "category", "l2_category"):
            return found
        if _letter(doc["answer"]) not in tuple(LETTERS):
            return "answer", f"{doc['answer'][:20]!r} is not one of the letters A to D"
        return None

    def category(self, doc: Doc) -> str:
        return doc["l2_category"]

    def reading(self, answer: Answer, protocol: str) -> str:
        """The letter that lmms-eval reads; "" for none."""
        from lmms_eval.tasks._task_utils.mcq_extract import extract_mcq_answer

        return extract_mcq_answer(answer.text, choices=list(LETTERS))

    def sample_score(self, answer: Answer, reading: str, protocol: str) -> float:
        return float(reading == _letter(answer.doc["answer"]))

    def value(
        self, answers: Sequence[Answer], readings: Sequence[str], scores: Sequence[float], protocol: str
    ) -> tuple[float, dict[str, float]]:
        level2: dict[str, list[float]] = defaultdict(list)
        level1: dict[str, set[str]] = defaultdict(set)
        for answer, score in zip(answers, scores, strict=True):
            level2[answer.doc["l2_category"]].append(score)
            level1[answer.doc["category"]].add(answer.doc["l2_category"])
        means = {name: 100 * fmean(of) for name, of in level2.items()}
        extra = {name: fmean(means[one] for one in of) for name, of in sorted(level1.items())}
        return fmean(means.values()), {"accuracy": 100 * fmean(scores), **extra}

    def metric_name(self, answers: Sequence[Answer], protocol: str) -> str:
        """The name only for a value of all 18 sub-categories. A limit, or the data, can leave some out."""
        name, found = super().metric_name(answers, protocol), len({answer.doc["l2_category"] for answer in answers})
        return name if found == LEVEL2 else f"{name} of {found} of {LEVEL2} sub-categories"

    def statistic(self, protocol: str, samples: Sequence[Sample]) -> Statistic:
        """Right answers and questions of each sub-category. Questions are drawn within theirs."""
        names = sorted({sample["category"] for sample in samples})

        def counts(rows: Sequence[Sample]) -> list[float]:
            scores = {name: [float(row["score"]) for row in rows if row["category"] == name] for name in names}
            return [number for of in scores.values() for number in (sum(of), float(len(of)))]

        return Statistic(lambda sample: sample["doc_id"], counts, _mean_of_means, lambda sample: sample["category"])


def _letter(answer: str) -> str:
    return answer.strip().upper()


def _mean_of_means(sums: np.ndarray) -> np.ndarray:
    """100 x the mean over sub-categories of right answers / questions: (..., 2 x sub-categories) to (...)."""
    return 100 * (sums[..., 0::2] / sums[..., 1::2].clip(min=1e-9)).mean(-1)
