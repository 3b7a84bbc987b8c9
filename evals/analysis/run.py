"""Probe a model on the samples of some tasks, resumably, with one journal per task as for a cell of a matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from evals.analysis.probe_model import ProbeModel
from evals.analysis.probe_settings import ProbeSettings
from evals.analysis.task_curves import Heat, curves_of, heat, pooled
from evals.run.engine import NUMERIC_VERSION
from evals.store import journal
from evals.store.cell_files import journal_of
from evals.store.lock import locked
from evals.store.records import AnswerRecord
from evals.tasks import evaluation, protocol_version
from evals.tasks.data import TaskSpec, data_digest, prepare
from evals.tasks.protocol import decoding
from hidrop.analysis.curves import Curves
from hidrop.errors import UserError
from hidrop.models import Loaded
from hidrop.program import program
from hidrop.provenance import provenance

# Increase if a code change alters the numbers of the probes.
PROBES_VERSION = 2


@dataclass(frozen=True)
class SampleSelection:
    """The samples to probe: of each task, `samples` samples after the first `skip`, which are left for a search."""

    tasks: tuple[TaskSpec, ...]
    samples: int
    skip: int
    batch_size: int
    dtype: str
    device: str
    attention: str


@dataclass(frozen=True)
class Found:
    """The curves over the samples of all tasks, a map of the most attended tokens, failed samples, and seconds."""

    curves: Curves
    heat: Heat
    failed: int
    seconds: float


def probe(
    loaded: Loaded,
    weights: str,
    asked: SampleSelection,
    probes: ProbeSettings,
    folder: Path,
    *,
    workers: int = 0,
    progress: Callable[[str, int], None] = lambda task, count: None,
) -> Found:
    """Probe the samples that earlier runs have not probed, and combine all. `progress` gets (task, samples done).

    Raises UserError for a task of videos, and for one with fewer than two samples that could be probed.
    """
    if others := [spec.name for spec in asked.tasks if spec.task.any_columns or spec.task.unscored]:
        raise UserError(
            f"{others[0]}: analyze needs a score of each answer by itself, which first-class tasks have: "
            f"`{program()} tasks --class first-class` lists them"
        )
    if filmed := [spec.name for spec in asked.tasks if spec.source.videos]:
        raise UserError(f"{filmed[0]}: a task of videos, which analyze does not probe. Name a task of images")
    with locked(folder):
        parts = [_task(loaded, weights, asked, spec, probes, folder, workers, progress) for spec in asked.tasks]
    records = [record for _, part in parts for record in part]
    return Found(
        pooled([curves for curves, _ in parts]),
        heat(records, loaded.geometry.layers),
        sum(bool(record["error"]) for record in records),
        sum(record["milliseconds"] for record in records) / 1000,
    )


def _task(
    loaded: Loaded,
    weights: str,
    asked: SampleSelection,
    spec: TaskSpec,
    probes: ProbeSettings,
    folder: Path,
    workers: int,
    progress: Callable[[str, int], None],
) -> tuple[Curves, list[AnswerRecord]]:
    prepare(spec)
    identity = {
        "probes": [PROBES_VERSION, asdict(probes)],
        "weights": weights,
        "data": data_digest(spec),
        "task": spec.name,
        "protocol": [spec.protocol, protocol_version(spec.protocol, spec.name)],
        "decoding": decoding(spec.protocol, spec.name),
        "samples": [asked.skip, asked.samples],
        "batch_size": asked.batch_size,
        "dtype": asked.dtype,
        "attention": asked.attention,
        "device": asked.device.split(":")[0],
        "numeric": NUMERIC_VERSION,
    }
    path = journal_of(folder, f"probes/{spec.name}", journal.identity_hash(identity))
    with journal.Journal(path, identity, made=lambda: provenance(asked.device)) as log:
        progress(spec.name, len(log.answers))

        def record(batch: list[dict[str, Any]]) -> None:
            log.append(*batch)
            progress(spec.name, len(batch))

        done = {(spec.name, doc_id): cast("dict[str, Any]", answer) for doc_id, answer in log.answers.items()}
        lm = ProbeModel.on(loaded, probes, spec.protocol, asked.batch_size, record, done, workers)
        with evaluation.quiet():
            task, requests = evaluation.requests(lm, spec, limit=asked.samples, skip=asked.skip)
            if not requests:
                raise UserError(
                    f"{spec.name}: no sample is left to probe, the first {asked.skip} are held out for a search. "
                    "Set a lower --held-out"
                )
            lm.generate_until(requests)
            records = [log.answers[doc_id] for doc_id in sorted(log.answers)]
            doc_ids = [record["doc_id"] for record in records]
            docs = {doc_id: task.eval_docs_no_media[doc_id] for doc_id in doc_ids}
            images = dict(zip(doc_ids, evaluation.image_names(task, spec, doc_ids), strict=True))
    return curves_of(loaded.geometry, spec, records, docs, images), records
