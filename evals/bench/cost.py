"""Estimate the cost of a matrix in hours of one device, from the ceilings that `run.py bench` measured on it.

Least hours: prefill and decoding of each sample, where each layer takes its operations or bytes at the ceilings.
Expected hours: least hours divided by the part of the physical limit that the same bench reached. Loading, the vision
tower (which runs once per image) and timings are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evals.bench.document import BENCH
from evals.matrix.resolve import MatrixRow
from evals.matrix.schema import AUTO, Cell, Matrix
from evals.plain_table import aligned
from evals.run.batch_sizes import MOST
from hidrop.errors import UserError
from hidrop.numerics import element_bytes

if TYPE_CHECKING:
    from evals.profiling.ceilings import Ceilings

# Answers are a word, a letter, or yes or no: about this many tokens, with the end token.
ANSWER_TOKENS = 4
HOUR = 3_600_000.0  # milliseconds
HEADINGS = ("model", "method", "samples", "least hours", "expected hours")


@dataclass(frozen=True)
class Speed:
    """A device's speed in a bench. `reached`: part of the physical limit by method, at the smallest point."""

    device: str
    ceilings: Ceilings
    reached: dict[str, float]

    def expected(self, method: str) -> float:
        """The part of the physical limit that a method reaches; vanilla's if the bench did not time the method."""
        return self.reached.get(method, self.reached["vanilla"])


@dataclass(frozen=True)
class Cost:
    """One row of a matrix, over all its tasks."""

    model: str
    label: str
    samples: int
    least_hours: float
    expected_hours: float

    def cells(self) -> tuple[str, ...]:
        return self.model, self.label, str(self.samples), _hours(self.least_hours), _hours(self.expected_hours)


def read(path: Path) -> Speed:
    """Read a file of `run.py bench`. Raises UserError for any other file, and for a file without vanilla."""
    from evals.profiling.ceilings import Ceilings

    try:
        document = BENCH.read(path)
    except UserError as error:
        raise UserError(f"--cost {error}") from None
    rows, hardware = document["rows"], document["hardware"]
    first = min(((row["batch"], row["text_tokens"], row["images"]) for row in rows), default=None)
    own = [row for row in rows if (row["batch"], row["text_tokens"], row["images"]) == first]
    # A matrix runs without graphs. With several budgets the first one counts.
    reached: dict[str, float] = {}
    for row in sorted(own, key=lambda row: row["captured"]):
        reached.setdefault(row["method"], row["of_physical_limit"])
    if "vanilla" not in reached:
        raise UserError(f"--cost {path}: the file has no timing of vanilla. {BENCH.remedy(str(path))}")
    name = hardware.get("gpu") or f"{hardware['cpu']}, {hardware['threads']} threads"
    return Speed(f"{name}, {document['dtype']}", Ceilings(**document["ceilings"]), reached)


def estimate(matrix: Matrix, cells: Iterable[Cell], rows: dict[tuple[str, str], MatrixRow], speed: Speed) -> list[Cost]:
    """The cost of each row, in the matrix's order."""
    samples: dict[tuple[str, str], int] = {}
    batch: dict[tuple[str, str], int] = {}
    for cell in cells:
        key = cell.model, cell.label
        if key in rows:
            samples[key] = samples.get(key, 0) + cell.samples
            batch[key] = MOST if cell.batch_size == AUTO else cell.batch_size
    found = []
    for key, count in samples.items():
        row, element = rows[key], element_bytes(matrix.models[key[0]].dtype or matrix.dtype)
        least = count * sample_ms(row, speed.ceilings, batch[key], matrix.text_tokens, element) / HOUR
        found.append(Cost(*key, count, least, least / speed.expected(row.method)))
    return found


def sample_ms(row: MatrixRow, ceilings: Ceilings, batch: int, text: int, element: int) -> float:
    """The least milliseconds per sample, in a batch of `batch` such samples."""
    from evals.profiling.ceilings import decode_ms, physical_ms

    geometry, entering = row.plan.geometry, row.plan.entering
    prefill = physical_ms(entering, geometry, ceilings, batch, text, element)
    step = decode_ms(entering, geometry, ceilings, batch, text, element)
    return (prefill + (ANSWER_TOKENS - 1) * step) / batch


def text(found: list[Cost], speed: Speed) -> str:
    """The estimate as a table, with its assumptions."""
    least, expected = sum(cost.least_hours for cost in found), sum(cost.expected_hours for cost in found)
    whole = Cost("all", "", sum(cost.samples for cost in found), least, expected)
    c = speed.ceilings
    return "\n".join(
        [
            *aligned([HEADINGS, *(cost.cells() for cost in [*found, whole])]),
            f"Hours of one device ({speed.device}; {c.flops_per_second / 1e12:.3g} TFLOP/s and "
            f"{c.bytes_per_second / 1e9:.3g} GB/s at best), {ANSWER_TOKENS} tokens per answer. Least: at these "
            "ceilings. Expected: at the part of them that the method reached in the same bench (vanilla's part if the "
            f"method was not timed). `batch_size: auto` counts as {MOST}. With several processes, divide by their "
            "number.",
        ]
    )


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours >= 0.1 else f"{hours:.4f}"
