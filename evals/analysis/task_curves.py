"""Compute the curves of a task from the records of its probed samples. The task's own rule scores the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evals.store.records import AnswerRecord
from evals.tasks.base import Answer
from evals.tasks.data import TaskSpec
from hidrop.analysis.curves import MODALITIES, Curve, Curves, Values
from hidrop.errors import UserError
from hidrop.geometry import Geometry

LEAST_SAMPLES = 2


def curves_of(
    geometry: Geometry,
    spec: TaskSpec,
    records: Sequence[AnswerRecord],
    docs: Mapping[int, Any],
    images: Mapping[int, str],
) -> Curves:
    """The curves of one task's samples, without failed samples. `docs` and `images` are by doc_id.

    Raises UserError if fewer than two samples remain.
    """
    probed = [(record, probe) for record in records if (probe := record.get("probe"))]
    good, probes = [record for record, _ in probed], [probe for _, probe in probed]
    if len(good) < LEAST_SAMPLES:
        why = next((f" The first one failed: {r['error']}" for r in records if r.get("error")), "")
        raise UserError(
            f"{spec.name}: {len(good)} of {len(records)} samples could be probed, at least two are needed.{why}"
        )

    def table(values: Sequence[Sequence[float | None] | None]) -> Values:
        width = max((len(row) for row in values if row), default=0)
        return np.array([row or [None] * width for row in values], dtype=np.float64)

    def scored(texts: Sequence[str]) -> list[float]:
        answers = [Answer(docs[record["doc_id"]], text) for record, text in zip(good, texts, strict=True)]
        return list(spec.task.score(answers, spec.protocol).samples)

    def right(answers: Sequence[Sequence[str]]) -> Curve:
        return Curve(1, np.array([scored(texts) for texts in zip(*answers, strict=True)]).T)

    def same(answers: Sequence[Sequence[str]]) -> Curve:
        rows = [[text == record["answer"] for text in row] for record, row in zip(good, answers, strict=True)]
        return Curve(1, np.array(rows, dtype=np.float64))

    first = probes[0]
    # In an order of our own: a record that was read again has its keys in another.
    windows = sorted(first["ilvas"], key=int)
    shares = sorted(first["exits"], key=float, reverse=True)
    exits = {float(share): [probe["exits"][share] for probe in probes] for share in shares}
    return Curves(
        layers=geometry.layers,
        visual_tokens=geometry.visual_tokens,
        intra={name: Curve(1, table([probe["intra"][name] for probe in probes])) for name in MODALITIES},
        cross=Curve(1, table([probe["cross"] for probe in probes])),
        mass=Curve(1, table([probe["mass"] for probe in probes])),
        ilvas={int(n): Curve(1, table([probe["ilvas"][n] for probe in probes])) for n in windows},
        exits={share: right(answers) for share, answers in exits.items()},
        exit_agreement={share: same(answers) for share, answers in exits.items()},
        inject=right([probe["inject"] or [] for probe in probes]) if first["inject"] else None,
        vanilla=np.array(scored([record["answer"] for record in good])),
        groups=tuple(images[record["doc_id"]] for record in good),
    )


def pooled(parts: Sequence[Curves]) -> Curves:
    """The curves over the samples of several tasks. Images of different tasks count as different images."""
    groups = tuple(f"{number}:{group}" for number, part in enumerate(parts) for group in part.groups)
    return Curves.made(parts, np.concatenate, groups)


def heat(records: Sequence[AnswerRecord], visual_tokens: int, layers: int) -> Values:
    """Share of samples in which each visual token is among the most attended, (layers, tokens).

    Only samples with `visual_tokens` visual tokens count; NaN if there are none.
    """
    counts, used = np.zeros((layers, visual_tokens)), 0
    for record in records:
        probe = record.get("probe")
        if probe and record["visual_tokens"] == visual_tokens:
            used += 1
            for layer, top in enumerate(probe["top"]):
                counts[layer, top] += 1
    return counts / used if used else np.full_like(counts, np.nan)
