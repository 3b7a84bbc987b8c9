"""Runs that work in one results folder at the same time (`--share`): each takes cells that no other one is running.

A run locks a cell, reads its journal, answers what is missing, and goes on to the next cell. It takes no timings,
because other runs on the same machine would disturb them. The last run to end writes the tables (`matrix_run`). With
`batch_size: auto` the first run of a task finds the size, and the others take it.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from evals.matrix.schema import AUTO, Cell
from evals.run import batch_sizes
from evals.run.failures import Failure
from evals.run.runner import MatrixRunner
from evals.run.timings import Timings
from evals.store.cell_files import DIGITS
from evals.store.journal import identity_hash
from evals.store.lock import CELL, NAME, InUse, holder, locked
from hidrop.atomic_file import write_atomically
from hidrop.regular_files import Unreadable, read_text

# What the first run found for `batch_size: auto`, under a hash of all that the size follows from.
SIZE = ".batch-size-{}.json"
WAITING = 3600.0  # seconds to wait for another run that loads a model to find it
PAUSE = 1.0  # seconds between two tries to get a lock that a living process of another machine holds
# The parts of a cell's identity that its batch size does not depend on.
METHOD = ("method", "fields", "source", "entering", "batch_size")


class SharedRunner(MatrixRunner):
    """A run of some cells of a matrix. Cells that another run has locked are left to it."""

    shares = True

    def model(self, cells: list[Cell], others: list[Cell]) -> None:
        """Run the free cells of one model. `others` are left alone: another run may be writing them."""
        loaded: Any = None  # the model, or why it cannot be loaded
        for cell in cells:
            name = None
            try:
                weights = self.engine.weights_digest(cell.spec.source)
                cell, loaded = self._with_size(cell, weights, loaded)
                name = CELL.format(identity_hash(self.journals.identity(cell, weights))[:DIGITS])
                with locked(self.out, name=name):
                    loaded = self._run_one(cell, loaded)
            except InUse:
                self.progress.left(cell.key, holder(self.out, name or NAME) or "another process")
            except Exception as error:
                self._fail(cell, Failure.of(error))
        del loaded
        self.engine.release()

    def _with_size(self, cell: Cell, weights: str, loaded: Any) -> tuple[Cell, Any]:
        """The cell with a number in the place of `batch_size: auto`, and its model if that had to be loaded for it.

        A size in the journals of the model's cells counts first, then what another run has found. Raises InUse if
        another run is still looking after WAITING seconds.
        """
        if cell.batch_size != AUTO:
            return cell, loaded
        if size := self._known_size(cell, weights):
            return replace(cell, batch_size=size), loaded
        key = self._size_key(cell, weights)
        with self._patiently(CELL.format(f"size-{key}")):
            size = self._known_size(cell, weights)
            if not size:
                loaded = self._loaded(cell, loaded)
                if isinstance(loaded, Failure):
                    return replace(cell, batch_size=batch_sizes.MOST), loaded  # it does not run
                size = self.engine.batch_sizes(loaded, [cell], 1)[cell.task]
                self.progress.sized(cell.model, {cell.task: size})
                write_atomically(self.out / SIZE.format(key), json.dumps({"batch_size": size}))
        return replace(cell, batch_size=size), loaded

    def _known_size(self, cell: Cell, weights: str) -> int | None:
        same = [one for one in self.matrix.cells() if (one.model, one.task) == (cell.model, cell.task)]
        known = [one for one in same if (one.model, one.label) in self.rows]
        recorded = self.journals.recorded(known, weights)
        if cell.key in recorded:
            return recorded[cell.key][0]
        if sizes := batch_sizes.of_tasks(known, recorded):
            return sizes[cell.task]
        with contextlib.suppress(Unreadable, ValueError, KeyError, TypeError):  # a file that is missing or broken
            size = json.loads(read_text(self.out / SIZE.format(self._size_key(cell, weights))))["batch_size"]
            if type(size) is int and 0 < size <= batch_sizes.MOST:
                return size
        return None

    def _size_key(self, cell: Cell, weights: str) -> str:
        identity = self.journals.identity(cell, weights)
        shared = {name: value for name, value in identity.items() if name not in METHOD}
        placed = [str(cell.spec.device_map), str(cell.graphs), self.device]
        return identity_hash({**shared, "placed": placed})[:DIGITS]

    @contextlib.contextmanager
    def _patiently(self, name: str) -> Iterator[None]:
        """Hold a lock of the folder, also if a living process of another machine holds it at first."""
        until, stack = time.monotonic() + WAITING, contextlib.ExitStack()
        with stack:
            while True:
                try:
                    stack.enter_context(locked(self.out, name=name, patience=until - time.monotonic()))
                    break
                except InUse:
                    if time.monotonic() >= until:
                        raise
                    time.sleep(PAUSE)
            yield

    def _loaded(self, cell: Cell, loaded: Any) -> Any:
        """The cell's model, or why it cannot be loaded."""
        return next(one for one in self._load(cell)[::-1] if one is not None) if loaded is None else loaded

    def _run_one(self, cell: Cell, loaded: Any) -> Any:
        """Run a cell that is locked. Returns its model if that is loaded, for the next cell, or why it cannot be."""
        weights, journals, failures = self._opened([cell])
        if cell.key in journals and journals[cell.key].result is None and not self.ended:
            loaded = self._loaded(cell, loaded)
            if isinstance(loaded, Failure):
                failures = {**failures, cell.key: loaded}
        self._finish([cell], journals, weights, None if isinstance(loaded, Failure) else loaded, failures)
        return loaded

    def _time(self, timings: Timings, loaded: Any) -> None:
        """No timings."""
