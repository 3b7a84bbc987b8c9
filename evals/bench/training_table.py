"""The table of training steps, on a terminal and on a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evals.report.units import MISSING

if TYPE_CHECKING:
    from evals.bench.document import StepRow, TrainingDocument

HEADINGS = (
    "method", "tokens", "step ms (p95)", "samples/s", "speed-up", "layerwise limit", "reached", "activations MiB",
    "peak MiB",
)  # fmt: skip
NOTES = (
    ("Step, layerwise limit of a step", "forward and backward of a batch with frozen tower; the speed-up if each layer "
     "took the time of transformers' own decoder layer, forward and backward, at its number of tokens"),
)  # fmt: skip


def cells(row: StepRow) -> tuple[str, ...]:
    time, limit, reached = row["step_ms"], row["layerwise"], row["of_layerwise"]
    return (
        row["label"],
        f"{sum(row['entering']) / len(row['entering']):.1f}",
        f"{time['median']:.0f} ({time['p95']:.0f})",
        f"{1000 * len(row['text']) / time['median']:.2f}",
        MISSING if row["speed_up"] is None else f"{row['speed_up']:.2f}x",
        MISSING if limit is None or reached is None else f"{limit:.2f}x",
        MISSING if reached is None else f"{reached:.3f}",
        f"{row['activation_bytes'] / 2**20:.0f}",
        f"{row['peak_bytes'] / 2**20:.0f}",
    )


def batch_words(text: Sequence[int]) -> str:
    """text: the text tokens of each sample. "16 samples of 60 text tokens", or of each number where they differ."""
    tokens = ", ".join(map(str, dict.fromkeys(text) if len(set(text)) == 1 else text))
    return f"{len(text)} sample{'s' * (len(text) > 1)} of {tokens} text tokens"


def sections(document: TrainingDocument) -> list[tuple[str, list[tuple[str, ...]]]]:
    """The rows of each batch, below its number of samples; steps that ran out of memory have a name alone."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for row in document["rows"]:
        found.setdefault(batch_words(row["text"]), []).append(cells(row))
    for lost in document["out_of_memory"]:
        line = (f"{lost['label']}: out of memory", *[MISSING] * (len(HEADINGS) - 1))
        found.setdefault(batch_words(lost["text"]), []).append(line)
    return list(found.items())
