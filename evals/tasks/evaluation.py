"""Run one task with one model through lmms-eval, and score it sample by sample."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from evals.tasks.base import IMAGE, LLAVA, Answer
from evals.tasks.build import build, quiet, rows_within
from evals.tasks.checks import missing
from evals.tasks.data import TaskSpec, prepare
from hidrop.errors import UserError


@dataclass(frozen=True)
class TaskResult:
    """A model's result in a task.

    `value` and `extra` are 0-100 (except counts, such as `extra["questions"]`). `n` is the number of documents asked,
    `n_failed` of those without an answer, which count as wrong. `samples` are in the order of doc_id. Each holds
    doc_id, answer, reading, target, score (0-1), image_key (equal for questions about the same image), category, and
    group (see `Task.group`).
    """

    task: str
    protocol: str
    metric: str
    value: float
    n: int
    n_failed: int
    extra: dict[str, float] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)


def ask(lm: Any, spec: TaskSpec, *, limit: int | None = None) -> None:
    """Let `lm` answer what `evaluate` would ask it, without scoring anything."""
    with quiet():
        lm.generate_until(requests(lm, spec, limit=limit)[1])


def requests(lm: Any, spec: TaskSpec, *, limit: int | None = None, skip: int = 0) -> tuple[Any, list[Any]]:
    """The task, and its requests to `lm` after the first `skip` documents, `limit` of them (None: all).

    Both numbers are rounded down to whole groups of questions, as in `evaluate`.
    """
    task = _ready(lm, spec)
    first = rows_within(task, spec, skip) if skip else 0
    task.build_all_requests(limit=rows_within(task, spec, None if limit is None else skip + limit))
    return task, task.instances[first:]


def evaluate(lm: Any, spec: TaskSpec, *, limit: int | None = None, bootstrap: bool = False) -> TaskResult:
    """Ask `lm` (an lmms-eval model) a task and score its answers.

    `limit` asks the first documents only (of a task with groups as many whole groups as fit, at least one), and the
    value covers these documents. Note that the first documents may all be of one category, as in POPE. `bootstrap` adds
    lmms-eval's standard error as `extra["stderr"]` if it has one.

    doc_ids are positions in the task's data, after the documents of each group were put next to each other.

    Raises UserError when data is missing, RuntimeError when not one sample could be prepared for the model.
    """
    from lmms_eval import evaluator

    name, asked = spec.name, spec.task
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        task = _ready(lm, spec)
        results = evaluator.evaluate(
            lm=lm,
            task_dict={name: task},
            limit=rows_within(task, spec, limit),
            bootstrap_iters=1000 if bootstrap else 0,
            # Without media: post-processing reads no image, so a broken one cannot stop the run there.
            cli_args=SimpleNamespace(output_path=scratch, process_with_media=False),
            process_docs_parallel=1,
        )
    rows = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    failures: Mapping[tuple[str, int], str] = getattr(lm, "failures", {})
    answers = [Answer(r["doc"], r["filtered_resps"][0], (name, r["doc_id"]) in failures) for r in rows]
    n_failed = sum(answer.failed for answer in answers)
    if n_failed == len(answers):
        raise RuntimeError(f"{name}: not one sample could be prepared. First: {failures[name, rows[0]['doc_id']]}")
    scores, official = asked.score(answers, spec.protocol), results["results"].get(name, {})
    value, extra = scores.value, dict(scores.extra)
    if spec.protocol != LLAVA:
        value = asked.scale * float(official[f"{asked.official},none"])
    spread = official.get(f"{asked.official}_stderr,none")
    if bootstrap and isinstance(spread, int | float):
        extra["stderr"] = asked.scale * float(spread)
    images = image_names(task, spec, [row["doc_id"] for row in rows])
    samples = [
        {
            "doc_id": row["doc_id"],
            "answer": answer.text,
            "reading": reading,
            "target": asked.target(answer.doc),
            "score": hit,
            "image_key": image,
            "category": asked.category(answer.doc),
            "group": asked.group(answer.doc),
        }
        for row, answer, reading, hit, image in zip(rows, answers, scores.readings, scores.samples, images, strict=True)
    ]
    return TaskResult(name, spec.protocol, scores.metric, value, len(answers), n_failed, extra, samples)


def _ready(lm: Any, spec: TaskSpec) -> Any:
    """lmms-eval's task; `lm` gets its documents."""
    prepare(spec)
    if problems := missing(spec, prepared=True):
        raise UserError("\n".join(problems))
    task = build(spec, getattr(lm, "asks_as", None))
    task.set_config("num_fewshot", 0)
    lm.task_dict[spec.name] = task.dataset
    return task


def image_names(task: Any, spec: TaskSpec, doc_ids: list[int]) -> list[str]:
    """A name for each document's image: the data's own id of it, or a hash of the image file."""
    docs = task.eval_docs
    for column in spec.task.image_columns:
        if column in docs.column_names:
            values = docs[column][:]
            return [str(values[doc_id]) for doc_id in doc_ids]
    if IMAGE not in docs.column_names:
        return [str(doc_id) for doc_id in doc_ids]
    files = (docs[doc_id][IMAGE] or {} for doc_id in doc_ids)
    return [hashlib.sha256(f.get("bytes") or str(f.get("path")).encode()).hexdigest()[:16] for f in files]
