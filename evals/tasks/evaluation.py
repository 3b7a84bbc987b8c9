"""Run one task with one model through lmms-eval, and score it sample by sample."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from evals.tasks.build import build, quiet, rows_within
from evals.tasks.data import IMAGE_COLUMNS, TaskSpec, missing
from evals.tasks.scoring import Answer, group, score
from hidrop.errors import UserError

# Which of lmms-eval's own numbers is the task's value under its protocol, and what makes it 0-100.
OFFICIAL: dict[str, tuple[str, float]] = {
    "gqa": ("exact_match", 100),
    "mmbench_en_dev": ("gpt_eval_score", 1),
    "textvqa_val": ("exact_match", 100),
    "pope": ("pope_f1_score", 100),
}


@dataclass(frozen=True)
class TaskResult:
    """What a model got in a task.

    `value` and `extra` are 0-100 (but `extra["questions"]`, a count). `n` counts the documents asked, `n_failed` those
    that no answer could be made for; they count as wrong. Each of `samples` holds doc_id, answer, reading, target,
    score (0-1), image_key (equal for questions about the same image), category and, for MMBench, group (the
    question that a document is a rotation of); in the order of doc_id.
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
    """The task, and its requests to `lm` behind the first `skip` documents, `limit` of them (None: all).

    Both numbers are rounded down to whole groups of questions, as in `evaluate`.
    """
    task = _ready(lm, spec)
    first = rows_within(task, spec, skip) if skip else 0
    task.build_all_requests(limit=rows_within(task, spec, None if limit is None else skip + limit))
    return task, task.instances[first:]


def evaluate(lm: Any, spec: TaskSpec, *, limit: int | None = None, bootstrap: bool = False) -> TaskResult:
    """Ask `lm` (an lmms-eval model) a task and score its answers.

    `limit` asks the first documents only (for MMBench whole circular groups: as many as fit, at least one), and the
    value is that of what was asked; POPE's first documents may be of one category. `bootstrap` adds lmms-eval's
    standard error as `extra["stderr"]` where it has one.

    doc_ids are places in the task's data; for MMBench after its rotations were put next to each other.

    Raises UserError when data is missing, RuntimeError when not one sample could be prepared for the model.
    """
    if problems := missing(spec):
        raise UserError("\n".join(problems))
    from lmms_eval import evaluator

    name = spec.name
    with quiet(), tempfile.TemporaryDirectory() as scratch:
        task = _ready(lm, spec)
        results = evaluator.evaluate(
            lm=lm,
            task_dict={name: task},
            limit=rows_within(task, spec, limit),
            bootstrap_iters=1000 if bootstrap else 0,
            # Without media: post-processing reads no image, so a broken one cannot end the run there.
            cli_args=SimpleNamespace(output_path=scratch, process_with_media=False),
            process_docs_parallel=1,
        )
    rows = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
    failures: Mapping[tuple[str, int], str] = getattr(lm, "failures", {})
    answers = [Answer(r["doc"], r["filtered_resps"][0], (name, r["doc_id"]) in failures) for r in rows]
    n_failed = sum(answer.failed for answer in answers)
    if n_failed == len(answers):
        raise RuntimeError(f"{name}: not one sample could be prepared. First: {failures[name, rows[0]['doc_id']]}")
    scores = score(name, spec.protocol, answers)
    metric, value, extra = scores.metric, scores.value, dict(scores.extra)
    (key, scale), official = OFFICIAL[name], results["results"].get(name, {})
    if spec.protocol == "lmms-eval":
        metric, value = key, scale * float(official[f"{key},none"])
    spread = official.get(f"{key}_stderr,none")
    if bootstrap and isinstance(spread, int | float):
        extra["stderr"] = scale * float(spread)
    images = image_names(task, [row["doc_id"] for row in rows])
    samples = [
        {
            "doc_id": row["doc_id"],
            "answer": answer.text,
            "reading": reading,
            "target": answer.doc["answers"] if name == "textvqa_val" else answer.doc["answer"],
            "score": hit,
            "image_key": image,
            "category": answer.doc.get("L2-category") or answer.doc.get("category"),
            "group": group(answer.doc) if name == "mmbench_en_dev" else None,
        }
        for row, answer, reading, hit, image in zip(rows, answers, scores.readings, scores.samples, images, strict=True)
    ]
    return TaskResult(name, spec.protocol, metric, value, len(answers), n_failed, extra, samples)


def _ready(lm: Any, spec: TaskSpec) -> Any:
    """The task, with its documents where `lm` looks for them."""
    task = build(spec)
    task.set_config("num_fewshot", 0)
    lm.task_dict[spec.name] = task.dataset
    return task


def image_names(task: Any, doc_ids: list[int]) -> list[str]:
    """What tells the documents' images apart: the data's own id of the image, or a hash of the image file."""
    docs = task.eval_docs
    for column in IMAGE_COLUMNS:
        if column in docs.column_names:
            values = docs[column][:]
            return [str(values[doc_id]) for doc_id in doc_ids]
    if "image" not in docs.column_names:
        return [str(doc_id) for doc_id in doc_ids]
    files = (docs[doc_id]["image"] or {} for doc_id in doc_ids)
    return [hashlib.sha256(f.get("bytes") or str(f.get("path")).encode()).hexdigest()[:16] for f in files]
