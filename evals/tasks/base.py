"""The interface of a task (a benchmark), and the data classes that it exchanges with the harness.

A task is one class in one file. It answers every question that differs between benchmarks: where its data is, what it
asks, how an answer is read and scored, which samples belong together, and what its column is called. No other module
compares a task's name.

The defaults describe the simplest task: lmms-eval's own question and decoding, a sample is right when its answer is
the document's, the value is the mean over samples, and samples are independent of each other. Such a task sets `name`,
`title` and `source`, and adds one line to `evals.tasks.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from evals.tasks.index import path_of, tasks_folder
from hidrop.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from evals.tasks.asked import Asked

# The protocols by name; `evals.tasks.protocol` defines them.
ProtocolName = Literal["llava", "lmms-eval", "native"]
LLAVA: ProtocolName = "llava"
LMMS_EVAL: ProtocolName = "lmms-eval"
NATIVE: ProtocolName = "native"
# The column of the images, in the documents or in files of their own.
IMAGE = "image"
# Why a cell has no value: a server scores the answers, or a judge does.
TO_SUBMIT, TO_JUDGE = "to submit", "to judge"
# A sample counts as right from this score on. It matters for scores between 0 and 1 only.
RIGHT = 0.5

Doc = Mapping[str, Any]  # a row of the task's data
Sample = Mapping[str, Any]  # a scored sample: see `evals.tasks.evaluation.TaskResult`


@dataclass(frozen=True)
class JoinedImages:
    """Images in files of their own: the document's column `key` holds the `id` of its image."""

    files: str  # a glob, as in `Source`
    id: str
    key: str


@dataclass(frozen=True)
class JoinedVideos:
    """Videos as files: the document's column `key`, with one of `endings` after it, is a path below `folder`.

    They come in zip files (`archives`, a glob as in `Source`), which have to be unpacked into `into`. Both folders are
    below that of the task.
    """

    archives: str
    folder: str
    key: str
    endings: tuple[str, ...] = ("",)
    into: str = "."


@dataclass(frozen=True)
class Source:
    """A task's data: its repository on the Hub, the files in it, and the columns that are read."""

    repository: str
    split: str
    folder: str  # below a data folder
    files: str  # a glob in the repository, and in the folder
    columns: tuple[str, ...]
    rows: int | None  # of the official files; other numbers are told, and it serves for estimates without files
    images: JoinedImages | None = None  # None: the column `image` holds them
    listed: bool = False  # whether the column `image` holds a list of images for each document
    videos: JoinedVideos | None = None  # instead of images
    revision: str | None = None  # of the repository, where it is not its newest
    megabytes: int | None = None  # to download
    title: str = ""  # of this version of the task's data, for captions; "" for the repository
    renamed: tuple[tuple[str, str], ...] = ()  # (a column's name in the files, the name that the task reads)
    convert: Callable[[Sequence[Path]], Path] | None = None  # makes one parquet file of question files of another kind
    others: tuple[str, ...] = ()  # further globs for a repository of an unknown layout, tried when `files` has no match
    every: tuple[str, ...] = ()  # globs that are read together, instead of `files`
    config: str | None = None  # of the repository, with `others`: its README may say where that is
    wanted: tuple[str, ...] = ()  # with `others`: the globs to download, instead of all of them
    paths: tuple[Path, ...] = ()  # the files themselves, instead of a repository
    own: bool = False  # whether a user's YAML file (`title`) names the files (`files`), and no repository has them
    elsewhere: str = ""  # how to get the question files into {folder} if they are not in the repository

    @property
    def plain(self) -> str:
        """The file's name in the embedded benchmark's layout."""
        return f"{self.split}.parquet"

    @property
    def globs(self) -> tuple[str, ...]:
        """The files in the repository."""
        questions = () if self.elsewhere else self.wanted or self.every or (self.files,)
        more = (self.images.files,) if self.images else (self.videos.archives,) if self.videos else ()
        return (*questions, *more)

    @property
    def named(self) -> str:
        """The data's name, for captions."""
        return self.title or self.repository

    @property
    def described(self) -> str:
        """The data's name and size."""
        return f"{self.named}, {self.rows:,} rows" if self.rows is not None else self.named


@dataclass(frozen=True)
class Answer:
    """A model's answer to a document. A failed sample (no answer could be made) counts as wrong everywhere."""

    doc: Doc
    text: str
    failed: bool = False


@dataclass(frozen=True)
class Scores:
    """`value` (0 to `Task.top`) of `metric`, each sample's score (0-1) and reading in order, and further metrics.

    Further metrics are 0-100 too, except counts and those of a task with a scale of its own.
    """

    metric: str
    value: float
    samples: tuple[float, ...]
    readings: tuple[str, ...]
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskScores:
    """What a cell stores: `metric`, its `value`, further metrics, and fields of each sample's record.

    A record has `reading` and `score`, which is None where the task scores no single sample (see
    `evals.store.records.ScoreRecord`). value: None for a task that is not scored here (`Task.unscored`).
    """

    metric: str
    value: float | None
    records: tuple[Mapping[str, Any], ...]
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Submission:
    """The file with the answers to a whole task, in the format of the server that scores it."""

    name: str  # of the file
    content: str
    server: str  # where to submit it, in words


@dataclass(frozen=True)
class Statistic:
    """A task's value (0 to `Task.top`) as a function of sums over its units, so that a bootstrap only has to draw sums.

    unit: the key of the unit that a sample belongs to. counts: a unit's numbers, from its samples. value: the value
    from their sums, (..., numbers) to (...). stratum: units are drawn within theirs, so that every draw has as many
    units of each as the data; by default all units are of one.
    """

    unit: Callable[[Sample], Hashable]
    counts: Callable[[Sequence[Sample]], Sequence[float]]
    value: Callable[[np.ndarray], np.ndarray]
    stratum: Callable[[Sample], Hashable] | None = None


@dataclass(frozen=True)
class Resampled:
    """A task's value where it does not follow from sums over its units: a bootstrap computes it from the samples.

    unit: the key of the unit that a sample belongs to. value: the value of a list of samples, which may hold a sample
    several times.
    """

    unit: Callable[[Sample], Hashable]
    value: Callable[[Sequence[Sample]], float]


class Task:
    """A benchmark. A subclass sets the attributes and overrides the methods in which it differs. It has no state."""

    name: str  # in a matrix, and in lmms-eval
    title: str  # of its column in tables
    source: Source
    # Other versions of the data by the name that a matrix gives, such as the one that published numbers belong to.
    versions: ClassVar[Mapping[str, Source]] = {}

    # Part of a cell's identity: raise a protocol's number when this task's prompts, images or scores change under it.
    revisions: ClassVar[Mapping[ProtocolName, int]] = {}
    # The longest answer under LLaVA's protocol. None: that protocol's default.
    max_new_tokens: int | None = None
    # The largest value that the task can have. 100, unless everybody prints its value on another scale.
    top: float = 100.0
    # What the value is called under LLaVA's protocol.
    metric = "accuracy"
    # Under the other protocols the value is this metric of lmms-eval's, times `scale` to make it 0 to `top`.
    official = "exact_match"
    scale = 100.0
    # The further metrics to show next to the value when two runs are compared: shell patterns.
    details: tuple[str, ...] = ()

    # The columns that a published answers file may call `question_id`.
    id_columns: tuple[str, ...] = ("question_id",)
    # The columns that name a document: no two documents have the same values. Checked if the data has all of them.
    # (): questions can be equal, and only their images differ.
    key_columns: tuple[str, ...] = ("question_id",)
    # The columns that may say which image a document is about; the first one in the data is used.
    image_columns: tuple[str, ...] = ("imageId", "image_id", "image_source")
    # Whether a document without an image is asked as text. Otherwise it is an error in the data.
    text_only = False
    # The column that `group` reads. None: every document is asked and counted by itself.
    group_column: str | None = None
    # The column that `order` reads, not a renamed one. None, or files without it: all documents are asked, in the order
    # of the files.
    order_column: str | None = None
    # Why documents without an `order` are not asked, for `validate`.
    not_asked = ""

    # Whether the task prepares its documents by lmms-eval's own function, and has images in columns of any name.
    any_columns = False
    # Whether the functions of the task's file may run: not if only a result document names the file.
    trusted = True
    # The task's YAML file, if it is not the one that lmms-eval has under this name.
    yaml_file: Path | None = None

    # Why the task has no value here, as its cells say: TO_SUBMIT, TO_JUDGE, or None for a task that is scored.
    unscored: str | None = None

    # For captions: what the units of the statistics are called, and whether scores between 0 and 1 exist.
    units = "samples"
    soft = False
    # The name and the column heading of each of the task's `row_stats`.
    stat_titles: tuple[tuple[str, str], ...] = ()
    # YAML that an exported task needs in addition to lmms-eval's own file.
    export_yaml = ""

    @property
    def obstacle(self) -> str | None:
        """Why the task cannot be asked by hidrop or on this machine, in words; None if it can."""
        return None

    @property
    def filmed(self) -> bool:
        """Whether documents have videos instead of images."""
        return self.source.videos is not None

    @property
    def official_files(self) -> list[Path] | None:
        """The files with the task's questions and scores; None for the task's folder of lmms-eval."""
        return None

    def higher_is_better(self, metric: str) -> bool:
        """Whether a larger value of a metric is better."""
        return True

    def check_metric(self, metric: str | None) -> None:
        """Raises UserError for a metric that cannot give the task's value. None: the task's own choice."""
        if metric is not None:
            raise UserError("metric: the task has one value only. Leave it out")

    # ---- what it asks ----------------------------------------------------------------------------------------------

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols that the task has: LLaVA's only if the task overrides `question`."""
        return (LMMS_EVAL, NATIVE) if type(self).question is Task.question else (LLAVA, LMMS_EVAL, NATIVE)

    def question(self, doc: Doc) -> str:
        """The question as LLaVA's own evaluation words it, without the conversation around it."""
        raise NotImplementedError

    def group(self, doc: Doc) -> str | int | None:
        """The group of a document. Groups are asked completely or not at all, and can be units of the statistics."""
        return None if self.group_column is None else doc[self.group_column]

    def order(self, doc: Doc) -> int | None:
        """Documents with smaller numbers are asked first; None for a document that is not asked. See `order_column`."""
        return 0

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        """The column of a document that keeps it from being asked or scored, and why; None for a good document.

        `doc` has the columns of `source` but not the image.
        """
        return next(((name, MISSING) for name in ("question", "answer") if name in doc and empty(doc[name])), None)

    def unit_count(self, samples: int, extra: Mapping[str, float | None]) -> int | None:
        """How many groups the value counts; None if it counts samples. extra: the further metrics."""
        return None

    def group_problem(self, docs: Sequence[Doc]) -> tuple[str, str] | None:
        """The column and the reason if these documents are not the whole group that they belong to; None if they are.

        The documents are as in `row_problem`, and each of them is good.
        """
        return None

    # ---- how answers are scored ------------------------------------------------------------------------------------

    def target(self, doc: Doc) -> Any:
        """The right answer, or a list of answers that people gave."""
        return doc["answer"]

    def category(self, doc: Doc) -> str | None:
        """The document's category, for reports and for values that are means over categories."""
        return doc.get("category")

    def reading(self, answer: Answer, protocol: str) -> str:
        """The answer as the task understands it."""
        return answer.text.strip().lower()

    def sample_score(self, answer: Answer, reading: str, protocol: str) -> float:
        """The score (0-1) of an answer that did not fail."""
        return float(reading == self.reading(Answer(answer.doc, str(self.target(answer.doc))), protocol))

    def value(
        self, answers: Sequence[Answer], readings: Sequence[str], scores: Sequence[float], protocol: str
    ) -> tuple[float, dict[str, float]]:
        """The task's value (0 to `top`), and further metrics."""
        return 100 * fmean(scores), {}

    def metric_name(self, answers: Sequence[Answer], protocol: str) -> str:
        """What the value of these answers is called."""
        return self.metric if protocol == LLAVA else self.official

    def score(self, answers: Sequence[Answer], protocol: str) -> Scores:
        """Score a task's answers. Raises ValueError when there are none.

        lmms-eval keeps no per-sample scores for some tasks, and paired statistics need them. So both are computed
        here, and tests compare the value with lmms-eval's.
        """
        if not answers:
            raise ValueError(f"{self.name}: no answers to score")
        readings = tuple(self.reading(answer, protocol) for answer in answers)
        scores = tuple(
            0.0 if answer.failed else self.sample_score(answer, reading, protocol)
            for answer, reading in zip(answers, readings, strict=True)
        )
        value, extra = self.value(answers, readings, scores, protocol)
        return Scores(self.metric_name(answers, protocol), value, scores, readings, extra)

    def scores(self, asked: Asked, protocol: str) -> TaskScores:
        """The scores of answered documents. Under the other protocols than LLaVA's the value is lmms-eval's own."""
        if self.unscored is not None:
            return TaskScores(
                self.unscored, None, tuple({"reading": answer.text, "score": None} for answer in asked.answers)
            )
        found = self.score(asked.answers, protocol)
        value = found.value if protocol == LLAVA else self.scale * float(asked.value(self.official))
        pairs = zip(found.readings, found.samples, strict=True)
        records = tuple({"reading": reading, "score": score} for reading, score in pairs)
        return TaskScores(found.metric, value, records, found.extra)

    def judged(self, asked: Asked) -> TaskScores:
        """The scores of a task whose answers are TO_JUDGE, by lmms-eval's functions, which may ask a server."""
        raise NotImplementedError

    def files(self, asked: Asked, protocol: str) -> dict[str, bytes]:
        """The files for the server of a task whose answers are TO_SUBMIT, by name."""
        made = self.submission(asked.answers, protocol)
        return {made.name: made.content.encode()}

    def submission(self, answers: Sequence[Answer], protocol: str) -> Submission:
        """The server's file with these answers, in the order of the data; for a task whose answers are TO_SUBMIT."""
        raise NotImplementedError

    # ---- statistics ------------------------------------------------------------------------------------------------

    def statistic(self, protocol: str, samples: Sequence[Sample]) -> Statistic | Resampled:
        """How the value follows from sums over units. `samples` are all samples of a row."""
        return Statistic(
            lambda sample: sample["doc_id"],
            lambda rows: (sum(float(row["score"]) for row in rows), float(len(rows))),
            mean_of_sums,
        )

    def statistics(self, protocol: str, rows: Mapping[Any, Sequence[Sample]]) -> dict[Any, Statistic | Resampled]:
        """`statistic` of the samples of several rows that are compared with each other, by name."""
        return {name: self.statistic(protocol, samples) for name, samples in rows.items()}

    def row_stats(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Further statistics of a row's samples, under the names of `stat_titles`."""
        return {}

    # ---- lmms-eval's side ------------------------------------------------------------------------------------------

    @property
    def lmms_folder(self) -> str:
        """The folder of the task's YAML file below lmms-eval's own tasks; the whole path of a user's own."""
        path, root = self.yaml_file or path_of(self.name), tasks_folder()
        return str(path.parent.relative_to(root)) if root and root in path.parents else str(path.parent)

    def metrics(self, official: Sequence[dict[str, Any]], protocol: str) -> Sequence[dict[str, Any]]:
        """The metrics that lmms-eval shall compute, from those in its own file; files for a server are not written."""
        return [metric for metric in official if metric["metric"] != "submission"]


# The reason of a row without a value.
MISSING = "is empty"


def empty(value: Any) -> bool:
    """Whether a document lacks a value: None, NaN, or text without a letter."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def no_text(doc: Doc, *columns: str) -> tuple[str, str] | None:
    """The first of these columns that holds no text, and why."""
    for name in columns:
        if empty(doc[name]):
            return name, MISSING
        if not isinstance(doc[name], str):
            return name, f"a {type(doc[name]).__name__} instead of text"
    return None


def mean_of_sums(sums: np.ndarray) -> np.ndarray:
    """100 x first number / second number; 0 where the second one is 0."""
    return 100 * sums[..., 0] / sums[..., 1].clip(min=1e-9)
