"""Compute the curves of a task from the records of its probed samples. The task's own rule scores the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evals.store.records import AnswerRecord
from evals.tasks.base import Answer
from evals.tasks.data import TaskSpec
from hidrop.analysis.curves import MODALITIES, Curve, Curves, Values
from hidrop.backbones.model_inputs import Panel
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


@dataclass(frozen=True)
class Heat:
    """Where the most attended tokens of some samples are: those whose images have the same grids.

    `shares`: of these samples, by layer and token, (layers, tokens); NaN without samples. `panels`: see `Panel`.
    """

    shares: Values
    panels: tuple[tuple[Panel, ...], ...]
    samples: int


def heat(records: Sequence[AnswerRecord], layers: int) -> Heat:
    """The map of the samples with the most frequent grids, the first of equally frequent ones."""
    probed = [(grids, probe) for record in records if (probe := record.get("probe")) and (grids := panels_of(record))]
    if not probed:
        return Heat(np.full((layers, 0), np.nan), (), 0)
    ((chosen, used),) = Counter(grids for grids, _ in probed).most_common(1)
    tokens = sum(frames * rows * (columns + others) for one in chosen for frames, rows, columns, others in one)
    counts = np.zeros((layers, tokens))
    for grids, probe in probed:
        for layer, top in enumerate(probe["top"] if grids == chosen else ()):
            counts[layer, top] += 1
    return Heat(counts / used, chosen, used)


def panels_of(record: AnswerRecord) -> tuple[tuple[Panel, ...], ...]:
    """The grids of a sample's images."""
    return tuple(
        tuple((frames, rows, columns, others) for frames, rows, columns, others in image)
        for image in record.get("panels") or ()
    )
