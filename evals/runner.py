"""Run the cells of a matrix: load each model once, skip what is finished, keep going when one fails.

A results folder holds samples/<cell>.<id>.jsonl (the journals, the only truth), profiles/<model>.json,
failures/<cell>.txt (tracebacks) and the tables that are rendered from them.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evals import document, journal
from evals.engine import NUMERIC_VERSION, Engine, Record
from evals.journal import Journal, slug
from evals.matrix import Cell, Matrix
from evals.progress import Progress
from evals.resolve import Row
from evals.tasks.protocol import PROTOCOL_VERSION
from evals.timings import Timings
from hidrop.errors import UserError


def run(
    matrix: Matrix,
    cells: Iterable[Cell],
    rows: Mapping[tuple[str, str], Row],
    out: Path,
    *,
    device: str,
    engine: Engine,
    progress: Progress,
    others: Iterable[Cell] = (),
) -> dict[str, Any]:
    """Run `cells` into the folder `out` and return the result document; `failed` lists what went wrong.

    A cell, and a sample of a cell, that an earlier run finished under the same identity is not run again. `others`
    are cells that were not asked for: they are in the document as far as an earlier run finished them.
    Raises UserError when another process works in `out`.
    """
    cells, others = list(cells), list(others)
    with journal.locked(out):
        work = Run(matrix, rows, out, device, engine, progress)
        for model in matrix.models:
            work.model([c for c in cells if c.model == model], [c for c in others if c.model == model])
        places = {(c.model, c.label, c.task): place for place, c in enumerate(matrix.cells())}
        work.done.sort(key=lambda entry: places[entry["model"], entry["label"], entry["task"]])
        return document.build(matrix, out, device, work.done, work.profiles, work.failed)


class Run:
    """One walk over the models of a matrix; `done`, `profiles` and `failed` fill up on the way."""

    def __init__(
        self,
        matrix: Matrix,
        rows: Mapping[tuple[str, str], Row],
        out: Path,
        device: str,
        engine: Engine,
        progress: Progress,
    ):
        self.matrix, self.rows, self.out, self.device = matrix, rows, out, device
        self.engine, self.progress = engine, progress
        self.done: list[dict[str, Any]] = []
        self.profiles: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []

    def model(self, cells: list[Cell], others: list[Cell]) -> None:
        """All cells of one model, its timings, and what is there of its other cells."""
        try:
            weights = self.engine.weights_digest((cells or others)[0].spec.source) if cells or others else ""
        except Exception as error:
            for cell in cells:
                self._fail(cell, error)
            return
        journals: dict[str, Journal] = {}
        for cell in cells + others:
            try:
                identity = self._identity(cell, weights)
                journals[cell.key] = Journal(self._path("samples", cell, identity), identity)
            except Exception as error:
                if cell in cells:
                    self._fail(cell, error)
        cells = [cell for cell in cells if cell.key in journals]
        others = [cell for cell in others if cell.key in journals and journals[cell.key].result is not None]
        if cells:
            self._run(cells, journals, weights)
        for cell in others:
            self.done.append(self._entry(cell, journals[cell.key]))
        labels = {cell.label: cell for cell in cells + others}
        if labels and self.matrix.profile is not None:
            self.profiles += self._timings(list(labels.values()), weights).rows()

    def _run(self, cells: list[Cell], journals: Mapping[str, Journal], weights: str) -> None:
        """Load the model if any of its cells or timings needs it, and go through them."""
        pending = [cell for cell in cells if journals[cell.key].result is None]
        timed = self.matrix.profile is not None
        loaded: Any = None
        if pending or (timed and self._timings(cells, weights).missing):
            self.progress.model(cells[0].model)
            try:
                loaded = self.engine.load(cells[0], self.device)
            except Exception as error:
                for cell in pending:
                    self._fail(cell, error)
                if not pending:
                    self._fail_timing(self._timings(cells, weights), error)
                cells = [cell for cell in cells if cell not in pending]
        # A method that could not answer is not timed: it would take the others' timings down with it.
        done = [cell for cell in cells if self._cell(cell, journals[cell.key], loaded)]
        if timed and done and loaded is not None:
            self._time(self._timings(done, weights), loaded)
        del loaded
        self.engine.release()

    def _time(self, timings: Timings, loaded: Any) -> None:
        if not timings.missing:
            return
        self.progress.timing(timings.model, len(timings.methods))
        try:
            timings.measure(loaded, self.engine)
            self._failure_file(f"{timings.model}/profile").unlink(missing_ok=True)
        except Exception as error:
            self._fail_timing(timings, error)

    def _timings(self, cells: list[Cell], weights: str) -> Timings:
        assert self.matrix.profile is not None
        rows = {cell.label: self.rows[cell.model, cell.label] for cell in cells}
        return Timings(self.out / "profiles", cells[0], rows, self.matrix.profile, self.device, weights)

    def _identity(self, cell: Cell, weights: str) -> dict[str, Any]:
        """Everything that changes a cell's numbers, and nothing that does not."""
        row = self.rows[cell.model, cell.label]
        return {
            "method": row.method,
            "fields": asdict(row.reducer),
            "entering": list(row.plan.entering),
            "weights": weights,
            "data": self.engine.data_digest(cell),
            "task": cell.task,
            "protocol": [cell.protocol, PROTOCOL_VERSION],
            "dtype": cell.dtype,
            "attention": cell.attention,
            "quantization": cell.quantization,
            "batch_size": cell.batch_size,
            "limit": cell.limit,
            "device": self.device.split(":")[0],
            "numeric": NUMERIC_VERSION,
        }

    def _path(self, folder: str, cell: Cell, identity: dict[str, Any]) -> Path:
        return self.out / folder / f"{slug(cell.key)}.{journal.identity_hash(identity)[:12]}.jsonl"

    def _entry(self, cell: Cell, log: Journal) -> dict[str, Any]:
        assert log.result is not None
        return document.cell_entry(cell, self.rows[cell.model, cell.label], log.result, self.matrix.text_tokens)

    def _cell(self, cell: Cell, log: Journal, loaded: Any) -> bool:
        """Run one cell unless it is finished, and put it into the document. False when it failed."""
        earlier = log.result is not None
        with log:
            try:
                if not earlier:
                    self._answer(cell, log, loaded)
                entry = self._entry(cell, log)
            except Exception as error:
                self._fail(cell, error)
                return False
        self.done.append(entry)
        self._failure_file(cell.key).unlink(missing_ok=True)
        self.progress.finished(cell.key, entry, earlier=earlier)
        return True

    def _answer(self, cell: Cell, log: Journal, loaded: Any) -> None:
        """Let the model answer what is not answered yet, and score all of it."""
        row = self.rows[cell.model, cell.label]
        records = dict(log.answers)

        def record(sample: Record) -> None:
            records[sample["doc_id"]] = sample
            log.append({"kind": "answer", **sample}, sync=len(records) % cell.batch_size == 0)
            self.progress.sample(cell.key)

        self.progress.started(cell.key, len(records))
        lm = self.engine.language_model(loaded, row.reducer, cell, record, dict(log.answers))
        result = self.engine.evaluate(lm, cell)
        log.finish(
            [{k: v for k, v in sample.items() if k != "answer"} for sample in result.samples],
            {
                "metric": result.metric,
                "value": result.value,
                "extra": result.extra,
                "n": result.n,
                "n_failed": result.n_failed,
                "prompts": document.asked(records.values()),
                "dtype": str(loaded.model.dtype).removeprefix("torch."),
                "seconds": round(sum(r["milliseconds"] for r in records.values()) / 1000, 3),
            },
        )

    def _fail(self, cell: Cell, error: Exception) -> None:
        self._note(cell.key, [self.rows[cell.model, cell.label]], cell.task, error)
        self.progress.failed(cell.key, reason(error))

    def _fail_timing(self, timings: Timings, error: Exception) -> None:
        self._note(f"{timings.model}/profile", timings.methods.values(), None, error)
        self.progress.timing_failed(timings.model, reason(error))

    def _note(self, key: str, rows: Iterable[Row], task: str | None, error: Exception) -> None:
        """Keep a failure for the document, with its traceback in a file of its own. No task: it was a timing."""
        path = self._failure_file(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        journal.write_atomically(path, "".join(traceback.format_exception(error)))
        for row in rows:
            names = document.row_entry(row)
            self.failed.append({**names, "task": task, "error": reason(error), "traceback": str(path)})

    def _failure_file(self, key: str) -> Path:
        return self.out / "failures" / f"{slug(key)}.txt"


def reason(error: Exception) -> str:
    """One line for the table; the traceback has the rest."""
    first = next(iter(str(error).splitlines()), "")
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"
