"""MME: two questions about each image, one with the answer yes and one with the answer no, in 14 sub-tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from evals.tasks.base import RIGHT, Answer, Doc, Sample, Source, Statistic, Task, no_text
from evals.tasks.official_functions import constant, functions
from hidrop.prompts import SHORT_ANSWER

if TYPE_CHECKING:
    import numpy as np

# What the official questions end with, and LLaVA's do not.
OFFICIAL_END = "Please answer yes or no."
PERCEPTION, COGNITION = "Perception", "Cognition"  # the kinds of sub-tasks, as lmms-eval calls them


class MME(Task):
    """2,374 questions about 1,187 images. The value is that of perception: 10 sub-tasks, 2,114 questions, 0 to 2000.

    A sub-task gives up to 200 points: the percentage of right answers, plus the percentage of images with two right
    answers. Each sub-task weighs the same, whether it has 60 questions or 400. `cognition` (4 sub-tasks, 0 to 800) and
    the points of each sub-task are shown next to the value.
    """

    name = "mme"
    title = "MME"
    source = Source(
        repository="lmms-lab-encoder/MME",
        split="test",
        folder="mme",
        files="data/test-*.parquet",
        columns=("question_id", "question", "answer", "category", "image"),
        rows=2374,
        megabytes=864,
    )
    top = 2000.0
    metric = "perception"
    official = "mme_perception_score"
    scale = 1.0
    details = ("cognition", "accuracy")
    key_columns = ("question_id", "question")
    image_columns = ("question_id",)
    group_column = "question_id"
    order_column = "category"  # a limit takes perception first, because the value does not count cognition
    units = "images with both questions"

    def question(self, doc: Doc) -> str:
        """Without the official last sentence. Some official questions have two spaces before it."""
        return f"{doc['question'].replace(OFFICIAL_END, '').strip()}\n{SHORT_ANSWER}"

    def order(self, doc: Doc) -> int:
        return int(doc["category"] in _subtasks(COGNITION))

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        if found := no_text(doc, *self.source.columns[:-1]):
            return found
        if doc["category"] not in (*_subtasks(PERCEPTION), *_subtasks(COGNITION)):
            return "category", f"{doc['category'][:30]!r} is not one of MME's sub-tasks"
        if _truth(doc["answer"]) not in ("yes", "no"):
            return "answer", f"{doc['answer'][:20]!r} is neither yes nor no"
        return None

    def unit_count(self, samples: int, extra: Mapping[str, float | None]) -> int:
        """Each image has two questions."""
        return samples // 2

    def group_problem(self, docs: Sequence[Doc]) -> tuple[str, str] | None:
        name, several = self.group(docs[0]), {doc["category"] for doc in docs}
        if len(docs) != 2:
            return "question", f"image '{name}' has {len(docs)} questions instead of two"
        return ("category", f"the questions about image '{name}' are of two sub-tasks") if len(several) > 1 else None

    def reading(self, answer: Answer, protocol: str) -> str:
        """ "yes", "no" or "other", by the official rule: that is the answer, or in its first four characters.

        lmms-eval has the same rule, and also reads a single "y" or "n".
        """
        return functions(self.lmms_folder).parse_pred_ans(answer.text)

    def sample_score(self, answer: Answer, reading: str, protocol: str) -> float:
        return float(reading == _truth(answer.doc["answer"]))

    def value(
        self, answers: Sequence[Answer], readings: Sequence[str], scores: Sequence[float], protocol: str
    ) -> tuple[float, dict[str, float]]:
        pairs: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for answer, score in zip(answers, scores, strict=True):
            pairs[answer.doc["category"]][answer.doc["question_id"]].append(score)
        points = {name: fmean(map(_points, of.values())) for name, of in sorted(pairs.items())}
        of_kind = {kind: sum(points.get(name, 0.0) for name in _subtasks(kind)) for kind in (PERCEPTION, COGNITION)}
        accuracy = 100 * fmean(scores)
        return of_kind[PERCEPTION], {"cognition": of_kind[COGNITION], "accuracy": accuracy, **points}

    def metric_name(self, answers: Sequence[Answer], protocol: str) -> str:
        """The protocol's name only for a value of all sub-tasks of perception. A limit, or the data, can lack some."""
        name, whole = super().metric_name(answers, protocol), _subtasks(PERCEPTION)
        found = {answer.doc["category"] for answer in answers} & set(whole)
        return name if len(found) == len(whole) else f"{name} of {len(found)} of {len(whole)} sub-tasks"

    def statistic(self, protocol: str, samples: Sequence[Sample]) -> Statistic:
        """The unit is an image with both questions, drawn within its sub-task: its points, and the number of images."""
        names = [name for name in _subtasks(PERCEPTION) if any(sample["category"] == name for sample in samples)]

        def counts(rows: Sequence[Sample]) -> list[float]:
            points, [category] = _points([row["score"] for row in rows]), {row["category"] for row in rows}
            return [number for name in names for number in ((points, 1.0) if name == category else (0.0, 0.0))]

        return Statistic(lambda sample: sample["group"], counts, _sum_of_means, lambda sample: sample["category"])


def _subtasks(kind: str) -> Sequence[str]:
    """The sub-tasks of perception or of cognition."""
    kinds: Mapping[str, Sequence[str]] = constant("mme", "eval_type_dict")
    return kinds[kind]


def _truth(answer: str) -> str:
    return answer.lower().strip().replace(".", "")


def _points(scores: Sequence[float]) -> float:
    """An image's points, 0 to 200: the percentage of right answers, and 100 more if all are right."""
    return 100 * fmean(scores) + 100 * all(score >= RIGHT for score in scores)


def _sum_of_means(sums: np.ndarray) -> np.ndarray:
    """The sum over sub-tasks of points / images: (..., 2 x sub-tasks) to (...)."""
    points, images = sums[..., 0::2], sums[..., 1::2]
    return (points / images.clip(min=1e-9)).sum(-1)
