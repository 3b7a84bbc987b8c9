"""Runs the cells of a matrix: loads each model once, skips finished cells, and continues after a failure.

A results folder contains samples/<cell>.<id>.jsonl (the journals, from which all else can be computed),
profiles/<model>.json (timings), failures/<cell>.txt (tracebacks), submissions/<cell>.<id>/ (files for the servers of
tasks that are scored there) and the tables.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from evals.matrix.resolve import MatrixRow
from evals.matrix.schema import AUTO, Cell, Matrix
from evals.run import batch_sizes
from evals.run.cell_journals import CellJournals
from evals.run.engine import Engine, files_again
from evals.run.failures import Failure, failure_file
from evals.run.processes import ALONE, Processes
from evals.run.progress import Progress
from evals.run.timings import Timings
from evals.store import cell_files, document, recomputed
from evals.store.folders import check_inside
from evals.store.journal import Journal
from evals.store.lock import locked
from evals.store.result_document import CellEntry, FailureEntry, ProfileEntry, ResultDocument
from hidrop.atomic_file import make_folder, write_atomically
from hidrop.errors import CannotWrite, UserError
from hidrop.regular_files import own_folder


def run(
    matrix: Matrix,
    cells: Iterable[Cell],
    rows: Mapping[tuple[str, str], MatrixRow],
    out: Path,
    *,
    device: str,
    engine: Engine,
    progress: Progress,
    others: Iterable[Cell] = (),
    processes: Processes = ALONE,
    force: bool = False,
    keep_cells: bool = False,
    pause: Callable[[], None] = lambda: None,
    kind: type[MatrixRunner] | None = None,
) -> ResultDocument:
    """Run `cells` into the folder `out` and return the result document. Its `failed` lists the failures.

    Cells and samples that an earlier run finished with the same identity do not run again. `others` are cells that were
    not asked for: the document has them if an earlier run finished them. Each of several `processes` calls this, and
    the document of the first one is complete. `force`: run finished cells again. `keep_cells`: take cells that an
    earlier version of the code finished. `pause` is called between batches, cells and models, and may raise
    KeyboardInterrupt. `kind`: another way to run a model's cells than `MatrixRunner`. Raises UserError if another
    process works in `out`, or a folder in it is a link. Once a file cannot be written (a full disk), the cells that are
    left are not run, and fail with the reason.
    """
    cells, others, kind = list(cells), list(others), kind or MatrixRunner
    check_inside(out)
    with locked(out, shared=kind.shares) if processes.main else contextlib.nullcontext():
        processes.wait()  # until the first process has locked the folder
        work = kind(matrix, rows, out, device, engine, progress, processes, pause, keep_cells)
        for model in matrix.models:
            own = [cell for cell in cells if cell.model == model]
            if force:
                work.start_over(own)
            work.model(own, [cell for cell in others if cell.model == model])
            processes.wait()  # loading the next model would disturb the timings on this one
        places = {(c.model, c.label, c.task): place for place, c in enumerate(matrix.cells())}
        work.done.sort(key=lambda entry: places[entry["model"], entry["label"], entry["task"]])
        return document.build(matrix, out, device, work.done, work.profiles, work.failed, work.scores)


class MatrixRunner:
    """A run of a matrix, model by model. The first process collects `done`, `profiles` and `failed`.

    ended: the failure after which nothing more can be stored, if any.

    Each of several processes answers its part of the batches of a model's cells. Then the first one scores them.
    """

    shares = False  # the folder with other runs

    def __init__(
        self,
        matrix: Matrix,
        rows: Mapping[tuple[str, str], MatrixRow],
        out: Path,
        device: str,
        engine: Engine,
        progress: Progress,
        processes: Processes,
        pause: Callable[[], None],
        keep_cells: bool = False,
    ):
        self.matrix, self.rows, self.out, self.device = matrix, rows, out, device
        self.engine, self.progress, self.processes, self.pause = engine, progress, processes, pause
        self.journals = CellJournals(out, rows, device, engine, keep=keep_cells)
        self.done: list[CellEntry] = []
        self.profiles: list[ProfileEntry] = []
        self.failed: list[FailureEntry] = []
        self.scores: document.CellScores = {}
        self.ended: Failure | None = None

    def start_over(self, cells: list[Cell]) -> None:
        """Move existing journals of `cells` of one model to samples/replaced/, and forget its timings."""
        if self.processes.main and cells:
            with contextlib.suppress(Exception):  # `model` reports the same error
                weights = self.engine.weights_digest(cells[0].spec.source)
                recorded = self.journals.recorded(cells, weights)
                self.journals.set_aside(batch_sizes.with_every_number(cells, recorded), weights)
                if self.matrix.profile:
                    self._timings(cells, weights).forget()
        self.processes.wait()

    def model(self, cells: list[Cell], others: list[Cell]) -> None:
        """Run the cells and timings of one model, and collect the results of its `others`."""
        once = cache(lambda: self._load(cells[0]))
        cells, others = self._sized(cells, others, once)
        weights, journals, failures = self._opened(cells + others)
        pending = [cell for cell in cells if cell.key in journals and journals[cell.key].result is None]
        timed = [cell for cell in cells if cell.key in journals] if self.matrix.profile and self.processes.main else []
        loaded: Any = None
        if self.ended:
            failures |= {cell.key: self.ended.of_the_rest() for cell in pending}
        elif pending or (timed and self._timings(timed, weights).missing):
            loaded, failed = once()
            if failed:
                failures |= {cell.key: failed for cell in pending}
                if timed and not pending:
                    self._fail_timing(self._timings(timed, weights), failed)
        if self.processes.count > 1:
            failures |= self._together(pending, journals, weights, loaded, failures)
        if self.processes.main:
            self._finish(cells, journals, weights, loaded, failures)
            others = [cell for cell in others if self._other(cell, journals.get(cell.key), weights, failures)]
            labels = {cell.label: cell for cell in cells + others if cell.key in journals}
            if labels and self.matrix.profile is not None:
                self.profiles += self._timings(list(labels.values()), weights).rows()
        del loaded, once
        self.engine.release()

    def _sized(
        self, cells: list[Cell], others: list[Cell], once: Callable[[], tuple[Any, Failure | None]]
    ) -> tuple[list[Cell], list[Cell]]:
        """The cells with a number in the place of `batch_size: auto`, the same in each process.

        A cell with a journal keeps its size, and new cells of its task get the one that most others have. Only where no
        cell of a task has a journal, the model is loaded (`once`) to see what memory is left.
        """
        if not (asked := batch_sizes.without_number(cells + others)):
            return cells, others
        recorded: dict[str, list[int]] = {}
        if self.processes.main:
            with contextlib.suppress(Exception):  # `_opened` reports the same error
                recorded = self.journals.recorded(asked, self.engine.weights_digest(asked[0].spec.source))
        recorded = self.processes.gather(recorded)[0]
        sizes = batch_sizes.of_tasks(asked, recorded)
        new = [cell for cell in batch_sizes.without_number(cells) if cell.task not in sizes]
        if new:
            loaded, failed = (None, self.ended) if self.ended else once()
            own = {} if failed else self.engine.batch_sizes(loaded, new, self.processes.count)
            found = batch_sizes.agreed(self.processes.gather(own))
            self.progress.sized(new[0].model, found)
            sizes |= found
        cells, others = (batch_sizes.with_numbers(each, recorded, sizes) for each in (cells, others))
        return cells, others

    def _load(self, cell: Cell) -> tuple[Any, Failure | None]:
        """The cell's model, or why it cannot be loaded."""
        self.progress.model(cell.model)
        try:
            return self.engine.load(cell, self.device), None
        except Exception as error:
            return None, Failure.of(error)

    def _opened(self, cells: Iterable[Cell]) -> tuple[str, dict[str, Journal], dict[str, Failure]]:
        """The digest of a model's weights, and the journal of each cell, or why there is none."""
        weights, journals, failures = "", dict[str, Journal](), dict[str, Failure]()
        known: dict[str, Journal] = {}
        for cell in cells:
            try:
                weights = weights or self.engine.weights_digest(cell.spec.source)
                log = self.journals.open(cell, weights)
                journals[cell.key] = known.setdefault(log.id, log)
            except Exception as error:
                failures[cell.key] = Failure.of(error)
        return weights, journals, failures

    def _together(
        self,
        pending: list[Cell],
        journals: dict[str, Journal],
        weights: str,
        loaded: Any,
        failures: dict[str, Failure],
    ) -> dict[str, Failure]:
        """Answer cells together with other processes, and open their journals again. Returns all failures by cell.

        Of labels with one journal, the first one is answered.
        """
        first: dict[str, Cell] = {}
        for cell in pending:
            first.setdefault(journals[cell.key].id, cell)
        failures = failures | self._share(list(first.values()) if loaded is not None else [], weights, loaded)
        for found in self.processes.gather(failures):
            failures = {**found, **failures}
        self._end(*failures.values())
        for cell in pending:
            if failure := failures.get(first[journals[cell.key].id].key):
                failures[cell.key] = failure
        if self.processes.main:
            answered = {id: self.journals.open(cell, weights) for id, cell in first.items()}
            journals |= {cell.key: answered[journals[cell.key].id] for cell in pending}
        return failures

    def _share(self, cells: list[Cell], weights: str, loaded: Any) -> dict[str, Failure]:
        """Answer this process's batches of each cell. Returns the failures by cell."""
        failures: dict[str, Failure] = {}
        for place, cell in enumerate(cells):
            if self.ended:
                failures[cell.key] = self.ended.of_the_rest()
                continue

            # The offset gives cells of only one or two batches to different processes.
            def mine(batch: int, place: int = place) -> bool:
                return self.processes.mine(batch + place)

            with self.journals.open(cell, weights, self.processes.name) as log:
                try:
                    self.engine.ask(self._model(cell, log, loaded, mine), cell)
                except Exception as error:
                    failures[cell.key] = Failure.of(error)
                    self._end(failures[cell.key])
        return failures

    def _end(self, *failures: Failure) -> None:
        """Run nothing more if one of the failures ends the run."""
        self.ended = self.ended or next((failure for failure in failures if failure.ends_run), None)

    def _finish(
        self,
        cells: list[Cell],
        journals: Mapping[str, Journal],
        weights: str,
        loaded: Any,
        failures: Mapping[str, Failure],
    ) -> None:
        """Score the cells and take the timings. A single process answers the cells here as well."""
        done = []
        for cell in cells:
            if cell.key in failures:
                self._fail(cell, failures[cell.key])
            elif self.ended and journals[cell.key].result is None:
                self._fail(cell, self.ended.of_the_rest())
            # A method that could not answer is not timed: its failure would end the other methods' timings.
            elif self._cell(cell, journals[cell.key], weights, loaded):
                done.append(cell)
        if self.matrix.profile is not None and done and loaded is not None and not self.ended:
            self._time(self._timings(done, weights), loaded)

    def _time(self, timings: Timings, loaded: Any) -> None:
        if not timings.missing:
            return
        self.pause()
        self.progress.timing(timings.model, len(timings.methods))
        try:
            timings.measure(loaded, self.engine)
            self._failure_file(f"{timings.model}/profile").unlink(missing_ok=True)
        except Exception as error:
            self._fail_timing(timings, Failure.of(error))

    def _timings(self, cells: list[Cell], weights: str) -> Timings:
        assert self.matrix.profile is not None
        rows = {cell.label: self.rows[cell.model, cell.label] for cell in cells}
        return Timings(self.out / "profiles", cells[0], rows, self.matrix.profile, self.device, weights)

    def _other(self, cell: Cell, log: Journal | None, weights: str, failures: Mapping[str, Failure]) -> bool:
        """Add a cell that was not asked for to the document if it is finished. A damaged journal is a failure."""
        try:
            if log is not None and log.result is not None:
                self.done.append(self._entry(cell, log, weights))
                return True
            if weights and cell.key in failures:  # without weights it is not known which journal is the cell's
                self._fail(cell, failures[cell.key])
        except UserError as error:
            self._fail(cell, Failure.of(error))
        return False

    def _entry(self, cell: Cell, log: Journal, weights: str) -> CellEntry:
        """Raises UserError for a result that the cell's scores do not give."""
        assert log.result is not None
        log.check()
        self.scores[cell.model, cell.label, cell.task] = log.scores
        row = self.rows[cell.model, cell.label]
        entry = document.cell_entry(cell, row, log.result, self.matrix.text_tokens, log.id)
        entry["provenance"] = document.sessions(log.provenance)
        for part in ("weights", "decoding", "ends"):
            entry[part] = log.identity[part]
        if self.matrix.batch_size == AUTO:
            entry["batch_size"] = log.identity["batch_size"]
        if cell.graphs is not False:
            entry["captured"] = log.identity.get("graphs", False)
        if cell.compiled:
            entry["compiled"] = True
        if name := self.engine.imitated(cell):
            entry["asked_as"] = name
        if pixels := log.identity.get("pixels"):
            entry["pixels"] = pixels
        if film := log.identity.get("film"):
            entry["film"] = film
        if differs := self.journals.differences(cell, weights, log):
            entry["older"] = differs
        return entry

    def _cell(self, cell: Cell, log: Journal, weights: str, loaded: Any) -> bool:
        """Run one cell unless it is finished, and add it to the document. False if it failed."""
        earlier = log.result is not None
        with log:
            try:
                if not earlier:
                    self._answer(cell, log, loaded)
                entry = self._entry(cell, log, weights)
                if earlier and "unscored" in entry and not cell_files.submitted(self.out, log.id):
                    self._write(cell, log, files_again(cell, log.answers, entry.get("asked_as")))
            except Exception as error:
                self._fail(cell, Failure.of(error))
                return False
        self.done.append(entry)
        self._failure_file(cell.key).unlink(missing_ok=True)
        self.progress.finished(cell.key, entry, earlier=earlier)
        return True

    def _answer(self, cell: Cell, log: Journal, loaded: Any) -> None:
        """Answer the samples that are not answered yet, and score all samples."""
        spent, started = list[float](), time.perf_counter()
        result = self.engine.evaluate(self._model(cell, log, loaded, ALONE.mine, spent.append), cell)
        scoring = time.perf_counter() - started - sum(spent)
        scores = [{k: v for k, v in sample.items() if k != "answer"} for sample in result.samples]
        counted = recomputed.facts(log.answers.values(), {sample["doc_id"] for sample in scores})
        assert (counted["n"], counted["n_failed"]) == (result.n, result.n_failed)
        self._write(cell, log, result.files)
        log.finish(
            scores,
            {
                "metric": result.metric,
                "value": result.value,
                "extra": result.extra,
                **({"unscored": result.unscored} if result.unscored else {}),
                **counted,
                "scoring_seconds": round(max(0.0, scoring), 3),
                "dtype": str(loaded.model.dtype).removeprefix("torch."),
            },
        )

    def _write(self, cell: Cell, log: Journal, files: Mapping[str, bytes]) -> None:
        """Write a cell's files for its task's server or judge."""
        for name, content in files.items():
            path = cell_files.submission_file(self.out, cell.key, log.id, name)
            make_folder(own_folder(path.parent))
            write_atomically(path, content)

    def _model(
        self,
        cell: Cell,
        log: Journal,
        loaded: Any,
        mine: Callable[[int], bool],
        spent: Callable[[float], None] = lambda seconds: None,
    ) -> Any:
        """The model with the cell's method, which writes its answers to `log` and the seconds they took to `spent`."""

        def record(batch: list[dict[str, Any]]) -> None:
            spent(sum(answer["milliseconds"] + answer.get("preparing_ms", 0) for answer in batch) / 1000)
            log.append(*batch)
            self.progress.samples(cell.key, len(batch))
            self.pause()

        self.pause()
        self.progress.started(cell.key, len(log.answers))
        reducer = self.rows[cell.model, cell.label].reducer
        return self.engine.language_model(loaded, reducer, cell, record, dict(log.answers), mine)

    def _fail(self, cell: Cell, failure: Failure) -> None:
        self._note(cell.key, [self.rows[cell.model, cell.label]], cell.task, failure)
        self.progress.failed(cell.key, failure.reason)

    def _fail_timing(self, timings: Timings, failure: Failure) -> None:
        self._note(f"{timings.model}/profile", timings.methods.values(), None, failure)
        self.progress.timing_failed(timings.model, failure.reason)

    def _note(self, key: str, rows: Iterable[MatrixRow], task: str | None, failure: Failure) -> None:
        """Add a failure to the document, and write its traceback to a file. Without a task it is a timing's."""
        path = self._failure_file(key)
        self._end(failure)
        with contextlib.suppress(CannotWrite):  # the failure may be a full disk
            make_folder(own_folder(path.parent))
            write_atomically(path, failure.traceback or f"{failure.reason}\n")
        for row in rows:
            names = document.row_entry(row)
            self.failed.append({**names, "task": task, "error": failure.reason, "traceback": str(path)})

    def _failure_file(self, key: str) -> Path:
        return failure_file(self.out, key)
