"""Any other task of lmms-eval, or of a user's own YAML file: its questions and its scores are the task's own functions.

The value is what the task's aggregation gives, on its own scale, equal to lmms-eval's. How the value depends on single
samples is found out from what `process_results` gives for each document, in this order:

1. numbers from 0 to 1 and a mean: they are the samples' scores;
2. dicts with such a number (`score`, `correct`, a reading next to an answer), if their mean is the value, or the mean
   over a category of their means is: they are scores with weights;
3. anything whose value is the mean of the values of single documents: these are their scores;
4. anything else: a sample has no score, and the record keeps what `process_results` gave, so that the statistics can
   aggregate a resampled list again.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.tasks import official_config
from evals.tasks.aggregation import aggregated, aggregation_of
from evals.tasks.base import (
    TO_JUDGE,
    TO_SUBMIT,
    Answer,
    Doc,
    Resampled,
    Sample,
    Source,
    Statistic,
    Task,
    TaskScores,
    mean_of_sums,
)
from evals.tasks.classify import Classified, classify, metric_class
from evals.tasks.index import Entry, included, tasks_folder
from evals.tasks.official_source import source_of
from evals.tasks.sample_scores import number, plain, weighted_scores
from hidrop.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from evals.tasks.asked import Asked, Key

# Columns that say which image or video a document is about.
CLUSTERS = (
    *("videoID", "video_id", "video", "video_name", "video_path", "video_idx", "Video_Name"),
    *("imageId", "image_id", "image_path", "image_name", "image_source"),
)


class OfficialTask(Task):
    """A task by its YAML file. `metric`: the metric that gives the value; None: the first that has one here."""

    any_columns = True
    image_columns = CLUSTERS
    key_columns = ()
    id_columns = ("question_id", "id", "index")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.name = self.title = entry.name

    @property
    def yaml_file(self) -> Path:  # type: ignore[override]
        return self.entry.path

    @functools.cached_property
    def classified(self) -> Classified:
        return classify(self.entry)

    @property
    def unscored(self) -> str | None:  # type: ignore[override]
        kind = self.classified.kind
        return kind if kind in (TO_SUBMIT, TO_JUDGE) else None

    @property
    def obstacle(self) -> str | None:
        if self.classified.runs:
            return None
        found = f"{self.classified.kind}: {self.classified.reason}"
        return f"{found}. Install {' '.join(self.classified.packages)}" if self.classified.packages else found

    @property
    def filmed(self) -> bool:
        return self.classified.media == "video"

    @functools.cached_property
    def source(self) -> Source:  # type: ignore[override]
        return source_of(self.entry)

    @property
    def official_files(self) -> list[Path] | None:
        """The files of a user's own task that its identity covers; None for all of lmms-eval's folder."""
        root = tasks_folder()
        if root is not None and root in self.entry.path.parents:
            return None
        yaml_files = included(self.entry.path)
        folders = dict.fromkeys(path.parent for path in yaml_files)
        return [*yaml_files, *(path for folder in folders for path in sorted(folder.glob("*.py")))]

    def row_problem(self, doc: Doc) -> tuple[str, str] | None:
        return None

    def target(self, doc: Doc) -> Any:
        return plain(doc.get("answer"))

    def category(self, doc: Doc) -> str | None:
        found = doc.get("category")
        return found if isinstance(found, str) else None

    def higher_is_better(self, metric: str) -> bool:
        listed = self.entry.config.get("metric_list") or ()
        return all(one.get("higher_is_better", True) for one in listed if one["metric"] == metric)

    def metrics(self, official: Sequence[dict[str, Any]] | None, protocol: str) -> Any:
        return official

    def check_metric(self, metric: str | None) -> None:
        known = self.entry.metrics
        if metric is not None and known and metric not in known:
            near = did_you_mean(metric, known)
            raise UserError(f"metric: the task has no '{metric}'.{near} It has {', '.join(known)}")
        if metric is not None and self.unscored is None and not self._scored_here(metric):
            raise UserError(f"metric: {metric} has no value here: {metric_class(self.entry, metric)[1]}")

    def _scored_here(self, metric: str) -> bool:
        return metric_class(self.entry, metric)[0] == "runs here"

    # ---- scores ----------------------------------------------------------------------------------------------------

    def scores(self, asked: Asked, protocol: str) -> TaskScores:
        if self.unscored is None:
            return self.judged(asked)
        readings = self._readings(asked)
        return TaskScores(self.unscored, None, tuple({**one, "score": None} for one in readings))

    def _readings(self, asked: Asked) -> list[dict[str, Any]]:
        return [{"reading": answer.text.strip(), "target": self._target(asked, answer)} for answer in asked.answers]

    def judged(self, asked: Asked) -> TaskScores:
        readings = self._readings(asked)
        key = self._key(asked)
        value = number(asked.value(*key))
        if value is None:
            raise UserError(f"{self.name}: the aggregation of {key[0]} gives no finite number. Name another metric")
        parts = self._parts(asked, key, value)
        records = tuple({**one, **part} for one, part in zip(readings, parts, strict=True))
        return TaskScores(_named(key, asked), value, records, self._others(asked, key))

    def _key(self, asked: Asked) -> Key:
        """The metric that gives the value, under the first filter that has it."""
        wanted = asked.metric or self.classified.metric
        for key in asked.items:
            if wanted is None or key[0] == wanted:
                return key
        there = ", ".join(dict.fromkeys(key[0] for key in asked.items))
        raise UserError(f"{self.name}: not one document has the metric {wanted}. They have {there}")

    def _others(self, asked: Asked, own: Key) -> dict[str, float]:
        """The values of the further metrics that have one here. One that fails costs only itself."""
        found: dict[str, float] = {}
        for key in asked.items:
            if key == own or key[0] not in asked.aggregations or not self._scored_here(key[0]):
                continue
            try:
                value = number(asked.value(*key))
            except UserError:
                continue
            if value is not None:
                found[_named(key, asked)] = value
        return found

    def _target(self, asked: Asked, answer: Answer) -> Any:
        try:
            return plain(asked.task.doc_to_target(dict(answer.doc)))
        except Exception:  # some tasks have no target, and say so with an error
            return self.target(answer.doc)

    def _parts(self, asked: Asked, key: Key, value: float) -> list[dict[str, Any]]:
        """`score` and `weight` of each sample, or None and nothing, and its `item`: see the module's docstring.

        A number's item is its score. Otherwise it is kept with the score, too: rows are compared on the items where
        some have scores and others have not, as it happens when F1 is 1 (see `statistics`).
        """
        count, items = len(asked.answers), dict(asked.items[key])
        metric = ",".join(key)
        kept = {place: {"item": plain(item), "metric": metric} for place, item in items.items()}
        if scored := weighted_scores(items, value) or weighted_scores(self._alone(asked, key, items), value):
            digits = {} if scored.digits is None else {"digits": scored.digits}
            parts: list[dict[str, Any]] = [{"score": None} for _ in range(count)]
            for place, (score, weight) in scored.samples.items():
                own = {"metric": metric} if number(items[place]) == score else kept[place]
                parts[place] = {"score": score, "weight": weight * count, **digits, **own}
            return parts
        return [{"score": None, **kept.get(place, {})} for place in range(count)]

    def _alone(self, asked: Asked, key: Key, items: Mapping[int, Any]) -> dict[int, float]:
        """The task's value of each document alone, from 0 to 1; {} if one has none, or if it is no such score."""
        found: dict[int, float] = {}
        if not self.higher_is_better(key[0]) or all(number(item) is not None for item in items.values()):
            return found
        for place, item in items.items():
            try:
                value = number(aggregated(asked.aggregations[key[0]], key[0], [item], self.name)[0])
            except UserError:
                return {}
            if value is None:
                return {}
            found[place] = value
        largest = max(found.values(), default=0.0)
        top = 1 if largest <= 1 else 100 if 10 < largest <= 100 else None  # another scale, such as 1 to 5
        return {} if top is None else {place: value / top for place, value in found.items()}

    def statistic(self, protocol: str, samples: Sequence[Sample]) -> Statistic | Resampled:
        """Sums of weighted scores, or the task's own aggregation of the items; documents of one image are one unit."""
        if any(sample["score"] is None and "item" in sample for sample in samples):
            return Resampled(lambda sample: sample["image_key"], self._aggregate)
        weights = {sample.get("weight") for sample in samples}  # None: without the metric
        digits = next((sample["digits"] for sample in samples if "digits" in sample), None)
        return Statistic(
            lambda sample: sample["doc_id"],
            lambda rows: (sum(_weighted(row) for row in rows), float(len(rows))),
            lambda sums: mean_of_sums(sums) / 100 if digits is None else (mean_of_sums(sums) / 100).round(digits),
            stratum=None if len(weights) < 2 else lambda sample: sample.get("weight"),
        )

    def statistics(self, protocol: str, rows: Mapping[Any, Sequence[Sample]]) -> dict[Any, Statistic | Resampled]:
        """All of them the aggregation of items, where the rows' weights differ, or some rows have no scores.

        Scores of a judge's file have no items.
        """
        found = super().statistics(protocol, rows)
        weights = {tuple((sample["doc_id"], sample.get("weight")) for sample in samples) for samples in rows.values()}
        documents = {tuple(doc_id for doc_id, _ in one) for one in weights}
        kept = all(any("metric" in sample for sample in samples) for samples in rows.values())
        if len(weights) == len(documents) or not kept:
            return found
        return dict.fromkeys(rows, Resampled(lambda sample: sample["image_key"], self._aggregate))

    def _aggregate(self, samples: Sequence[Sample]) -> float:
        own = [sample for sample in samples if "metric" in sample]
        items = [sample["item"] if "item" in sample else sample["score"] for sample in own]
        metric = str(own[0]["metric"]).rpartition(",")[0] if own else ""
        if not self.trusted:
            return math.nan
        function = aggregation_of(official_config.official(self), metric)
        try:
            value = number(aggregated(function, metric, items, self.name)[0])
        except UserError:  # a resampled list may lack what the task divides by
            return math.nan
        return math.nan if value is None else value

    def files(self, asked: Asked, protocol: str) -> dict[str, bytes]:
        """What the aggregations of a task that is to submit write. One that is to judge has its answers only."""
        if self.unscored == TO_JUDGE:
            return {"answers.jsonl": self._answers(asked).encode()}
        found: dict[str, bytes] = {}
        for metric, name in asked.items:
            if metric in asked.aggregations:
                found |= asked.files(metric, name)
        return found

    def _answers(self, asked: Asked) -> str:
        """A line of JSON for each document, for a judge."""
        rows = [
            {"doc_id": doc_id, "question": question, "answer": answer.text, "target": self._target(asked, answer)}
            for doc_id, question, answer in zip(asked.doc_ids, asked.questions, asked.answers, strict=True)
        ]
        return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def of_yaml(path: Path, name: str) -> OfficialTask:
    """The task of a user's YAML file. Raises UserError, with the file, for one that is no task."""
    from evals.tasks.index import configuration

    config = configuration(path)
    for field in ("dataset_path", "doc_to_text"):
        if config.get(field) is None:
            raise UserError(f"{path}: not a task of lmms-eval: it has no {field}")
    entry = Entry(name, "task", path.absolute(), {**config, "task": name})
    if entry.split is None:
        raise UserError(f"{path}: it names no test_split or validation_split")
    return OfficialTask(entry)


def _named(key: Key, asked: Asked) -> str:
    """A metric's name, with the filter where the task has several."""
    return key[0] if len(asked.filters) < 2 else ",".join(key)


def _weighted(sample: Sample) -> float:
    return float(sample["score"] or 0) * float(sample.get("weight", 0)) if sample["score"] is not None else 0.0
