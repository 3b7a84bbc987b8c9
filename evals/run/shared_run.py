"""Runs that work in one results folder at the same time (`--share`): each takes cells that no other one is running.

A run locks a cell, reads its journal, answers what is missing, and goes on to the next cell. It takes no timings,
because other runs on the same machine would disturb them. The last run to end writes the tables (`matrix_run`). With
`batch_size: auto` the first run of a task finds the size, and the others take it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from evals.matrix.schema import Cell
from evals.run import batch_sizes
from evals.run.failures import Failure
from evals.run.runner import MatrixRunner
from evals.run.timings import Timings
from evals.store.cell_files import DIGITS
from evals.store.journal import identity_hash
from evals.store.lock import CELL, InUse, holder, locked
from hidrop.atomic_file import write_atomically
from hidrop.regular_files import Unreadable, read_text

# The batch sizes that the first run found for `batch_size: auto`, by the digest of a model's weights and by task.
SIZES = ".batch-sizes.json"
WAITING = 600.0  # seconds to wait for another run that loads a model to find them


class SharedRunner(MatrixRunner):
    """A run of some cells of a matrix. Cells that another run has locked are left to it."""

    shares = True

    def model(self, cells: list[Cell], others: list[Cell]) -> None:
        """Run the free cells of one model. `others` are left alone: another run may be writing them."""
        once = cache(lambda: self._load(cells[0]))
        loaded: Any = None
        try:
            with locked(self.out, name=CELL.format("sizes"), patience=WAITING):
                cells, _ = self._sized(cells, [], once)
        except InUse as error:
            for cell in cells:
                self._fail(cell, Failure.of(error))
            return
        if once.cache_info().currsize:
            model, failed = once()
            loaded = failed or model
        for cell in cells:
            try:
                weights = self.engine.weights_digest(cell.spec.source)
                name = CELL.format(identity_hash(self.journals.identity(cell, weights))[:DIGITS])
            except Exception as error:
                self._fail(cell, Failure.of(error))
                continue
            try:
                with locked(self.out, name=name):
                    loaded = self._run_one(cell, loaded)
            except InUse:
                self.progress.left(cell.key, holder(self.out, name) or "another process")
        del loaded, once
        self.engine.release()

    def _kept_sizes(self, cell: Cell) -> dict[str, int]:
        with contextlib.suppress(Exception):  # of a missing or broken file nothing is known, and a cell says the rest
            kept = json.loads(read_text(self.out / SIZES))[self.engine.weights_digest(cell.spec.source)]
            return {str(task): int(size) for task, size in kept.items() if 0 < int(size) <= batch_sizes.MOST}
        return {}

    def _keep_sizes(self, cell: Cell, found: Mapping[str, int]) -> None:
        known: dict[str, dict[str, int]] = {}
        with contextlib.suppress(Unreadable, ValueError):
            known = json.loads(read_text(self.out / SIZES))
        weights = self.engine.weights_digest(cell.spec.source)
        write_atomically(self.out / SIZES, json.dumps(known | {weights: known.get(weights, {}) | dict(found)}))

    def _run_one(self, cell: Cell, loaded: Any) -> Any:
        """Run a cell that is locked. Returns its model if that is loaded, for the next cell, or why it cannot be."""
        weights, journals, failures = self._opened([cell])
        if cell.key in journals and journals[cell.key].result is None and not self.ended:
            if loaded is None:
                model, failed = self._load(cell)
                loaded = failed or model
            if isinstance(loaded, Failure):
                failures = {**failures, cell.key: loaded}
        self._finish([cell], journals, weights, None if isinstance(loaded, Failure) else loaded, failures)
        return loaded

    def _time(self, timings: Timings, loaded: Any) -> None:
        """No timings."""
