"""POPE: does the image show a given object? Half of the right answers are no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar

from evals.tasks.base import LLAVA, Answer, Doc, JoinedImages, Sample, Source, Statistic, Task, no_text
from evals.tasks.pope_questions import CATEGORIES, as_parquet
from hidrop.prompts import SHORT_ANSWER

if TYPE_CHECKING:
    import numpy as np


class POPE(Task):
    """9,000 questions in three categories (random, popular, adversarial), scored by F1 with yes as the positive class.

    LLaVA's evaluation has 2,910 random questions instead of 3,000, from an early commit of POPE's repository.

    LLaVA's value is the mean of the categories' F1, lmms-eval's the F1 of all samples.
    """

    name = "pope"
    title = "POPE"
    source = Source(
        repository="lmms-lab-encoder/POPE",
        split="test",
        folder="pope",
        files="data/test-*.parquet",
        columns=("question", "question_id", "answer", "category", "image"),
        rows=9000,
        megabytes=255,
    )
    versions: ClassVar[Mapping[str, Source]] = {
        "llava": Source(
            repository="lmms-lab-encoder/POPE",
            split="test",
            folder="pope",
            files="coco/coco_pope_*.json",
            columns=("question", "question_id", "answer", "category"),
            rows=8910,
            images=JoinedImages("data/test-*.parquet", id="image_source", key="image_source"),
            title="LLaVA's questions (POPE's repository at commit e3e3926)",
            convert=as_parquet,
            elsewhere=(
                "put the folder output/coco of https://github.com/AoiDragon/POPE at commit "
                "e3e39262c85a6a83f26cf5094022a782cb0df58d to {folder}/coco"
            ),
            megabytes=255,
        )
    }
    key_columns = ("category", "question_id")  # each category counts from 1
    metric = "f1"
    official = "pope_f1_score"
    details = ("accuracy", "f1_*")
    stat_titles = (("yes_ratio", "yes %"),)

    def question(self, doc: Doc) -> str:
        return f"{doc['question']}\n{SHORT_ANSWER}"

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        if found := no_text(doc, "question", "answer", "category"):
            return found
        if doc["category"] not in CATEGORIES:  # each category has an F1 of its own in LLaVA's mean
            return "category", f"{doc['category'][:20]!r} is not one of {', '.join(CATEGORIES)}"
        return None if _truth(doc) in ("yes", "no") else ("answer", f"{doc['answer'][:20]!r} is neither yes nor no")

    def reading(self, answer: Answer, protocol: str) -> str:
        """ "yes" or "no". LLaVA reads "no" if the first sentence has a word No, not or no, and "yes" otherwise.

        lmms-eval compares the whole answer in lower case, so only a bare "yes" or "no" can be right.
        """
        if protocol != LLAVA:
            return answer.text.lower().strip()
        if answer.failed:  # LLaVA's rule reads an empty answer as "yes"; a failed sample must not profit from that
            return "no" if _truth(answer.doc) == "yes" else "yes"
        words = answer.text.split(".")[0].replace(",", "").split(" ")
        return "no" if {"No", "not", "no"} & set(words) else "yes"

    def sample_score(self, answer: Answer, reading: str, protocol: str) -> float:
        return float(reading == _truth(answer.doc))

    def value(
        self, answers: Sequence[Answer], readings: Sequence[str], scores: Sequence[float], protocol: str
    ) -> tuple[float, dict[str, float]]:
        targets = [_truth(answer.doc) for answer in answers]
        overall, extra = metrics_of(readings, targets), dict[str, float]()
        categories: dict[str, list[int]] = {}
        for place, answer in enumerate(answers):
            categories.setdefault(str(answer.doc.get("category", "all")), []).append(place)
        for category, places in categories.items():
            of = metrics_of([readings[p] for p in places], [targets[p] for p in places])
            extra |= {f"{name}_{category}": value for name, value in of.items()}
        mean = fmean(extra[f"f1_{category}"] for category in categories)
        return mean if protocol == LLAVA else overall["f1"], overall | extra

    def metric_name(self, answers: Sequence[Answer], protocol: str) -> str:
        """The protocol's name only for a value of all three categories. A limit, or the data, can leave some out."""
        name = super().metric_name(answers, protocol)
        found = sorted({str(answer.doc.get("category", "all")) for answer in answers})
        return name if tuple(found) == CATEGORIES else f"{name} of {' and '.join(found)} only"

    def statistic(self, protocol: str, samples: Sequence[Sample]) -> Statistic:
        """Confusion counts of each category under LLaVA's protocol, of all samples under lmms-eval's."""
        categories = sorted({str(s["category"]) for s in samples}) if protocol == LLAVA else [None]

        def counts(rows: Sequence[Sample]) -> list[float]:
            return [n for c in categories for n in _confusion([r for r in rows if c in (None, str(r["category"]))])]

        return Statistic(lambda sample: sample["doc_id"], counts, _mean_f1)

    def row_stats(self, samples: Sequence[Sample]) -> dict[str, float]:
        """The share of answers, in percent, that are read as yes. It depends on the answers only, not on the truth."""
        return {"yes_ratio": 100 * sum(s["reading"] == "yes" for s in samples) / len(samples)}


def _truth(doc: Doc) -> str:
    return doc["answer"].lower().strip()


def metrics_of(readings: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and the share of "yes" among the readings, all 0-100.

    A reading that is neither "yes" nor "no" is wrong for the accuracy and ignored by the others, as in lmms-eval.
    """
    pairs = list(zip(readings, targets, strict=True))
    hit, alarm, miss = (pairs.count(pair) for pair in (("yes", "yes"), ("yes", "no"), ("no", "yes")))
    precision = hit / (hit + alarm) if hit + alarm else 0.0
    recall = hit / (hit + miss) if hit + miss else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    accuracy = fmean(r == t for r, t in pairs)
    yes = fmean(r == "yes" for r, _ in pairs)
    values = {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1, "yes_ratio": yes}
    return {name: 100 * value for name, value in values.items()}


def _confusion(rows: Sequence[Sample]) -> tuple[float, float, float]:
    """True positives, false positives, false negatives: see `metrics_of`, also for a reading that is neither."""
    said = [(r["reading"], str(r["target"]).lower().strip()) for r in rows]
    hit, alarm, miss = (said.count(pair) for pair in (("yes", "yes"), ("yes", "no"), ("no", "yes")))
    return float(hit), float(alarm), float(miss)


def _mean_f1(sums: np.ndarray) -> np.ndarray:
    """The mean over the categories of F1 = 2 TP / (2 TP + FP + FN): (..., 3 x categories) to (...)."""
    parts = sums.reshape(*sums.shape[:-1], -1, 3)
    hits, false, missed = parts[..., 0], parts[..., 1], parts[..., 2]
    return 100 * (2 * hits / (2 * hits + false + missed).clip(min=1e-9)).mean(-1)
