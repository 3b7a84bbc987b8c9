"""MVBench's moving direction: which way does an object of a rendered scene move? A question with four options."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from evals.tasks.base import Answer, Doc, JoinedVideos, Sample, Source, Statistic, Task, mean_of_sums, no_text
from evals.tasks.official_functions import functions
from evals.tasks.question_files import content_of, parsed, write_table
from hidrop.cache_folder import cache_folder
from hidrop.errors import UserError

OPTIONS = "candidates"
FIELDS = ("video", "question", OPTIONS, "answer")


def as_parquet(paths: Sequence[Path], *, task: str) -> Path:
    """MVBench's question file (a JSON list) as one parquet file in the cache folder; made once for the same content.

    Fields that are not in every row are left out, and values of another kind are empty, so that both are told as in
    other files. Raises UserError for a file of another kind.
    """
    [path] = paths
    content = content_of(path)
    rows = parsed(path, content)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: not a list of questions")
    made = cache_folder() / f"{task}-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    if not made.is_file():
        _write(rows, made)
    return made


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow

    options = pyarrow.list_(pyarrow.string())
    columns = {
        name: pyarrow.array([_value(name, row[name]) for row in rows], options if name == OPTIONS else pyarrow.string())
        for name in FIELDS
        if all(name in row for row in rows)
    }
    write_table(pyarrow.table(columns), path)


def _value(name: str, value: Any) -> Any:
    """A text, or a list of texts; None for anything else."""
    if name == OPTIONS:
        return [str(one) for one in value] if isinstance(value, list) else None
    return value if isinstance(value, str) else None


class MovingDirection(Task):
    """200 questions about CLEVRER's videos: one of MVBench's twenty tasks.

    lmms-eval's value leaves empty answers out. `empty_wrong` counts them as wrong, and `empty` is their number.
    """

    name = "mvbench_moving_direction"
    title = "MVBench-MD"
    source = Source(
        repository="OpenGVLab/MVBench",
        revision="video",
        split="train",
        folder="mvbench",
        files="json/moving_direction.json",
        columns=FIELDS,
        rows=200,
        videos=JoinedVideos("video/clevrer.zip", folder="clevrer/video_validation", key="video"),
        convert=functools.partial(as_parquet, task="mvbench-moving-direction"),
        megabytes=1120,
    )
    official = "mvbench_accuracy"
    scale = 1.0
    details = ("empty_wrong", "empty")
    key_columns = ("video", "question")
    id_columns = ("video",)
    image_columns = ("video",)
    units = "videos"

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        if found := no_text(doc, "video", "question", "answer"):
            return found
        options = list(doc[OPTIONS]) if doc[OPTIONS] is not None else []
        if doc["answer"] not in options:
            return "answer", f"{doc['answer'][:30]!r} is not one of its {len(options)} candidates"
        return None

    def reading(self, answer: Answer, protocol: str) -> str:
        return answer.text.strip()

    def sample_score(self, answer: Answer, reading: str, protocol: str) -> float:
        [result] = functions(self.lmms_folder).mvbench_process_results(dict(answer.doc), [reading]).values()
        return float(result["score"])

    def value(
        self, answers: Sequence[Answer], readings: Sequence[str], scores: Sequence[float], protocol: str
    ) -> tuple[float, dict[str, float]]:
        said = sum(bool(reading) for reading in readings)
        extra = {"empty": float(len(answers) - said), "empty_wrong": 100 * fmean(scores)}
        return (100 * sum(scores) / said if said else 0.0), extra

    def statistic(self, protocol: str, samples: Sequence[Sample]) -> Statistic:
        """Questions about one video are drawn together; empty answers are left out, as in the value."""
        return Statistic(
            lambda sample: sample["image_key"],
            lambda rows: (sum(float(row["score"]) for row in rows), float(sum(bool(row["reading"]) for row in rows))),
            mean_of_sums,
        )
