"""Video-MME without subtitles: questions with four options about videos of some seconds to an hour."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from evals.tasks.base import Answer, Doc, JoinedVideos, Sample, Source, Statistic, Task, mean_of_sums, no_text
from evals.tasks.official_functions import constant, functions

LETTERS = "ABCD"
# lmms-eval's lists of the values that a column may have: with another one, its score cannot be computed.
LISTED = {
    "duration": "VIDEO_TYPE",
    "domain": "CATEGORIES",
    "sub_category": "SUB_CATEGORIES",
    "task_type": "TASK_CATEGORIES",
}


class VideoMME(Task):
    """2,700 questions about 900 videos, three for each."""

    name = "videomme"
    title = "Video-MME"
    source = Source(
        repository="lmms-eval/Video-MME",
        split="test",
        folder="videomme",
        files="videomme/test-*.parquet",
        columns=("videoID", "question_id", "question", "options", "answer", *LISTED),
        rows=2700,
        videos=JoinedVideos("videos_chunked_*.zip", folder="data", key="videoID", endings=(".mp4", ".MP4", ".mkv")),
        megabytes=100_000,
    )
    official = "videomme_perception_score"
    scale = 1.0
    details = ("short", "medium", "long")
    image_columns = ("videoID",)
    units = "videos"

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        if found := no_text(doc, "videoID", "question", "answer", *LISTED):
            return found
        for column, name in LISTED.items():
            if doc[column] not in constant(self.lmms_folder, name):
                return column, f"{doc[column][:30]!r} is not one of lmms-eval's {name}"
        if doc["answer"] not in tuple(LETTERS):
            return "answer", f"{doc['answer'][:20]!r} is not one of the letters A to D"
        options = list(doc["options"]) if doc["options"] is not None else []
        return None if len(options) == len(LETTERS) else ("options", f"{len(options)} options instead of four")

    def category(self, doc: Doc) -> str | None:
        return doc["duration"]

    def reading(self, answer: Answer, protocol: str) -> str:
        """The letter that lmms-eval reads; "" for none."""
        return functions(self.lmms_folder).extract_characters_regex(answer.text)

    def sample_score(self, answer: Answer, reading: str, protocol: str) -> float:
        [result] = functions(self.lmms_folder).videomme_process_results(dict(answer.doc), [answer.text]).values()
        return float(result["score"])

    def value(
        self, answers: Sequence[Answer], readings: Sequence[str], scores: Sequence[float], protocol: str
    ) -> tuple[float, dict[str, float]]:
        lengths: dict[str, list[float]] = defaultdict(list)
        for answer, score in zip(answers, scores, strict=True):
            lengths[answer.doc["duration"]].append(score)
        extra = {name: 100 * fmean(of) for name, of in sorted(lengths.items())}
        return 100 * fmean(scores), extra | {"unread": float(sum(not reading for reading in readings))}

    def statistic(self, protocol: str, samples: Sequence[Sample]) -> Statistic:
        """Questions about one video are drawn together."""
        return Statistic(
            lambda sample: sample["image_key"],
            lambda rows: (sum(float(row["score"]) for row in rows), float(len(rows))),
            mean_of_sums,
        )
