"""Run one task with one model through lmms-eval's task object, and score it sample by sample."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evals.tasks.aggregation import guesses_seeded
from evals.tasks.any_columns import image_columns, images_in
from evals.tasks.asked import Asked, respond
from evals.tasks.base import Task
from evals.tasks.build import BUILDING, build, quiet, rows_within
from evals.tasks.checks import missing
from evals.tasks.data import TaskSpec, data_digest, prepare
from hidrop.errors import UserError

# Documents whose images are counted, to know about how many a prompt has.
LOOKED_AT = 200
KEPT = 16  # tasks that stay built: documents are mapped from disk


@dataclass(frozen=True)
class TaskResult:
    """A model's result in a task.

    `value` is 0 to `Task.top` for a first-class task, and on the metric's own scale for any other task of lmms-eval.
    `extra` holds further metrics on their own scales, and counts such as `extra["questions"]`. `n` is the number of
    documents asked, `n_failed` of those without an answer, which count as wrong. `samples` are in the order of doc_id.
    Each holds doc_id, answer, reading, target, score (0-1, or None if the metric scores no single sample), image_key
    (equal for questions about the same image), category, and group (see `Task.group`).

    A task that is not scored here has the value None: `unscored` says why, and `files` are those of its server.
    """

    task: str
    protocol: str
    metric: str
    value: float | None
    n: int
    n_failed: int
    extra: dict[str, float] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    unscored: str | None = None
    files: dict[str, bytes] = field(default_factory=dict)


def ask(lm: Any, spec: TaskSpec, *, limit: int | None = None) -> None:
    """Let `lm` answer what `evaluate` would ask it, without scoring anything."""
    with quiet():
        respond(lm, requests(lm, spec, limit=limit)[1])


def requests(lm: Any, spec: TaskSpec, *, limit: int | None = None, skip: int = 0) -> tuple[Any, list[Any]]:
    """The task, and its requests to `lm` after the first `skip` documents, `limit` of them (None: all).

    Both numbers are rounded down to whole groups of questions, as in `evaluate`.
    """
    task = _ready(spec, getattr(lm, "asks_as", None))
    lm.task_dict[spec.name] = task.dataset
    first = rows_within(task, spec, skip) if skip else 0
    with guesses_seeded(spec.name, BUILDING):
        task.build_all_requests(limit=rows_within(task, spec, None if limit is None else skip + limit))
    instances = [instance for instance in task.instances if instance.doc_id >= first]
    task._instances = None  # the task stays for the next cell, with nothing of this one
    return task, instances


def evaluate(lm: Any, spec: TaskSpec, *, limit: int | None = None) -> TaskResult:
    """Ask `lm` (an lmms-eval model) a task and score its answers.

    `limit` asks the first documents only (of a task with groups as many whole groups as fit, at least one), and the
    value covers these documents. Note that the first documents may all be of one category, as in POPE.

    doc_ids are positions in the task's data, after the documents of each group were put next to each other.

    Raises UserError when data is missing or cannot be scored, RuntimeError when not one sample could be prepared for
    the model.
    """
    with quiet():
        task, instances = requests(lm, spec, limit=limit)
        respond(lm, instances)
        return scored(Asked(spec.name, task, instances, getattr(lm, "failures", {}), spec.metric), spec)


def scored(asked: Asked, spec: TaskSpec) -> TaskResult:
    """The result of answered documents. Raises like `evaluate`."""
    answers, task = asked.answers, spec.task
    n_failed = sum(answer.failed for answer in answers)
    if n_failed == len(answers):
        raise RuntimeError(f"{spec.name}: not one sample could be prepared. First: {asked.failures[0]}")
    scores = task.scores(asked, spec.protocol)
    images = image_names(asked.task, spec, asked.doc_ids)
    samples = [
        {
            "doc_id": doc_id,
            "answer": answer.text,
            "target": task.target(answer.doc),
            "image_key": image,
            "category": task.category(answer.doc),
            "group": task.group(answer.doc),
            **record,
        }
        for doc_id, answer, image, record in zip(asked.doc_ids, answers, images, scores.records, strict=True)
    ]
    return TaskResult(
        spec.name,
        spec.protocol,
        scores.metric,
        scores.value,
        len(answers),
        n_failed,
        dict(scores.extra),
        samples,
        task.unscored,
        task.files(asked, spec.protocol) if task.unscored else {},
    )


def from_journal(spec: TaskSpec, answers: Mapping[int, Mapping[str, Any]], model_name: str | None = None) -> Asked:
    """The task with generated answers that a journal has, by doc_id: no model is asked.

    An answer is a record with `answer` and `error` (`evals.store.records.AnswerRecord`). model_name: lmms-eval's model
    class, where a task has a question text of its own for it. Call it inside `quiet`. Raises UserError if data is
    missing.
    """
    _check_data(spec)
    task = _built(spec, model_name)
    task.build_all_requests(limit=1 + max(answers))
    asked = [instance for instance in task.instances if instance.doc_id in answers]
    for instance in asked:
        instance.resps = [answers[instance.doc_id]["answer"]]
    failures = {(spec.name, doc_id): str(one["error"]) for doc_id, one in answers.items() if one["error"] is not None}
    return Asked(spec.name, task, asked, failures, spec.metric)


def files_from_journal(
    spec: TaskSpec, answers: Mapping[int, Mapping[str, Any]], model_name: str | None = None
) -> dict[str, bytes]:
    """The files of a task that is not scored here, again. Like `from_journal`."""
    with quiet():
        return spec.task.files(from_journal(spec, answers, model_name), spec.protocol)


def most_images(spec: TaskSpec, *, limit: int | None = None) -> int:
    """The most images of one document, among the first LOOKED_AT documents that are asked, or 1.

    Of a task whose images are in any columns. Raises UserError if data is missing.
    """
    with quiet():
        docs = _ready(spec, None).eval_docs
        asked = range(min(LOOKED_AT, len(docs) if limit is None else min(limit, len(docs))))
        return max((sum(1 for _ in images_in(docs[number])) for number in asked), default=1) or 1


def _ready(spec: TaskSpec, model_name: str | None) -> Any:
    """lmms-eval's task, which all cells of a run share that ask it. Raises UserError if data is missing."""
    _check_data(spec)
    return _shared(spec, spec.task, model_name, data_digest(spec))


@functools.lru_cache(maxsize=KEPT)
def _shared(spec: TaskSpec, task: Task, model_name: str | None, digest: str) -> Any:
    """The task on data with this digest. `task` is in the key because a user's own can be replaced under its name."""
    return _built(spec, model_name)


def _built(spec: TaskSpec, model_name: str | None) -> Any:
    made = build(spec, model_name)
    made.set_config("num_fewshot", 0)
    return made


def _check_data(spec: TaskSpec) -> None:
    """Get the data of a task. Raises UserError if some is missing."""
    prepare(spec)
    if problems := missing(spec, prepared=True):
        raise UserError("\n".join(problems))


def image_names(task: Any, spec: TaskSpec, doc_ids: list[int]) -> list[str]:
    """A name for each document's images: the data's own id, or a hash of the files; its number where it has none."""
    docs = task.eval_docs
    for column in spec.task.image_columns:
        if column in docs.column_names:
            values = docs[column][:]
            names = {str(values[doc_id]) for doc_id in doc_ids}
            # A column that nobody declared may hold something else: nothing, or the data set's name in every row.
            if spec.task.any_columns and (None in values or (len(names) == 1 < len(doc_ids))):
                continue
            return [str(values[doc_id]) for doc_id in doc_ids]
    if not image_columns(docs.features):
        return [str(doc_id) for doc_id in doc_ids]
    return [_hash(images_in(docs[doc_id])) or f"document {doc_id}" for doc_id in doc_ids]


def _hash(images: Sequence[Mapping[str, Any]]) -> str:
    """A hash of undecoded images; "" for none."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(image["bytes"] or str(image["path"]).encode())
    return digest.hexdigest()[:16] if images else ""
