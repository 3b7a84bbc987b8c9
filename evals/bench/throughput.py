"""Measure samples per second of a matrix's accuracy cells: as the matrix runs, and one sample at a time.

Both runs of a cell follow each other, so that background load affects both equally. One uses batch size 1 and decodes,
preprocesses and encodes every image for its question. The other runs as the matrix does: in batches, with prefetched
images and cached image features. Both must give the same answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evals.matrix.resolve import MatrixRow
from evals.matrix.schema import Cell
from evals.plain_table import aligned
from evals.run.batch_sizes import with_numbers, without_number
from evals.run.engine import Engine
from evals.run.processes import ALONE

# The embedded matrix must be at least this many times as fast as one sample at a time.
LEAST_RATIO = 4.0
LIMIT = 128
HEADINGS = ("cell", "samples", "one by one /s", "as it runs /s", "ratio", "other answers")


@dataclass(frozen=True)
class CellThroughput:
    """One cell run both ways: samples, seconds, and the number of different answers."""

    key: str
    samples: int
    single_seconds: float
    seconds: float
    different: int

    @property
    def ratio(self) -> float:
        return self.single_seconds / self.seconds

    @property
    def holds(self) -> bool:
        """Whether it is at least LEAST_RATIO times as fast, with the same answers."""
        return self.ratio >= LEAST_RATIO and not self.different

    def cells(self) -> tuple[str, ...]:
        single, batched = self.samples / self.single_seconds, self.samples / self.seconds
        numbers = f"{single:.1f}", f"{batched:.1f}", f"{self.ratio:.2f}x"
        return self.key, str(self.samples), *numbers, str(self.different)


def together(found: Iterable[CellThroughput]) -> CellThroughput:
    """The sum over all cells."""
    columns = zip(*((a.samples, a.single_seconds, a.seconds, a.different) for a in found), strict=True)
    return CellThroughput("all", *map(sum, columns))


def measure(
    cells: Iterable[Cell],
    rows: Mapping[tuple[str, str], MatrixRow],
    device: str,
    engine: Engine,
    alone: Engine,
    say: Callable[[str], None],
) -> list[CellThroughput]:
    """Run every cell both ways: with `engine`, and one by one with `alone`. `say` gets one line per cell.

    Raises any error of a cell.
    """
    cells, found = list(cells), []
    for model in dict.fromkeys(cell.model for cell in cells):
        own = [cell for cell in cells if cell.model == model]
        loaded = engine.load(own[0], device)
        own = with_numbers(own, {}, engine.batch_sizes(loaded, without_number(own), 1))
        for task in dict.fromkeys(cell.task for cell in own):
            first = next(cell for cell in own if cell.task == task)
            _ask(engine, loaded, rows, replace(first, limit=1))  # warm-up: converts the data, loads the kernels
        loaded.features.clear()
        for cell in own:
            single, before = _ask(alone, without_reuse(loaded), rows, replace(cell, batch_size=1))
            batched, seconds = _ask(engine, loaded, rows, cell)
            different = sum(batched[doc_id] != answer for doc_id, answer in single.items())
            found.append(CellThroughput(cell.key, len(single), before, seconds, different))
            say("  ".join(found[-1].cells()))
        del loaded
        engine.release()
    return found


def without_reuse(loaded: Any) -> Any:
    from hidrop.runtime.feature_cache import FeatureCache

    return replace(loaded, features=FeatureCache(0))


def _ask(
    engine: Engine, loaded: Any, rows: Mapping[tuple[str, str], MatrixRow], cell: Cell
) -> tuple[dict[int, str], float]:
    """Answers by doc_id, and the seconds for inference and scoring."""
    records: list[dict[str, Any]] = []
    started = time.perf_counter()
    lm = engine.language_model(loaded, rows[cell.model, cell.label].reducer, cell, records.extend, {}, ALONE.mine)
    engine.evaluate(lm, cell)
    seconds = time.perf_counter() - started
    return {record["doc_id"]: record["answer"] for record in records}, seconds


def table(found: list[CellThroughput]) -> str:
    whole = together(found)
    bar = f"{whole.ratio:.2f}x, {whole.different} other answers. Bar: at least {LEAST_RATIO:g}x and 0 other answers: "
    lines = aligned([HEADINGS, *(a.cells() for a in [*found, whole])])
    return "\n".join([*lines, "", bar + ("holds" if whole.holds else "MISSED")])
