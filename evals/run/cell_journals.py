"""The journals of a run's cells: the identity of each cell, and where its journal is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from evals.matrix.capture import captured
from evals.matrix.resolve import MatrixRow
from evals.matrix.schema import AUTO, Cell
from evals.run.engine import NUMERIC_VERSION, Engine
from evals.run.older_cells import CODE, differences, older_cell
from evals.store import cell_files, journal
from evals.store.journal import Journal
from evals.tasks.official_files import official_digest
from evals.tasks.protocol import decoding, protocol_version
from hidrop import provenance
from hidrop.reducer import Reducer


class CellJournals:
    """Opens the journals of cells in the folder `out`. `keep`: take cells that an earlier version of the code finished.

    Two labels whose cells have the same identity are one cell, with one journal.
    """

    def __init__(
        self, out: Path, rows: Mapping[tuple[str, str], MatrixRow], device: str, engine: Engine, *, keep: bool = False
    ):
        self.out, self.rows, self.device, self.engine, self.keep = out, rows, device, engine, keep
        self._moved: set[str] = set()
        self._ends = cache(engine.answer_ends)  # by the model's source: every cell asks

    def identity(self, cell: Cell, weights: str) -> dict[str, Any]:
        """Everything that changes a cell's numbers, and nothing else."""
        row = self.rows[cell.model, cell.label]
        return {
            "method": row.method,
            "fields": {**row.reducer.identity, **self._own_weights(row.reducer)},
            "source": row.source,
            "entering": list(row.plan.entering),
            "weights": weights,
            "data": self.engine.data_digest(cell),
            "task": cell.task,
            "protocol": [cell.protocol, protocol_version(cell.protocol, cell.task)],
            "decoding": decoding(cell.protocol, cell.task),
            "official": official_digest(cell.task),
            "ends": list(self._ends(cell.spec.source)),
            "dtype": cell.dtype,
            "attention": cell.attention,
            "quantization": cell.quantization,
            "batch_size": cell.batch_size,
            "limit": cell.limit,
            **({"counts": row.plan.geometry.counting} if row.plan.geometry.dynamic else {}),
            "device": self.device.split(":")[0],
            "numeric": NUMERIC_VERSION,
            # Left out where nothing is stated, so that older cells stay valid.
            **({"pixels": cell.spec.pixels} if cell.spec.pixels else {}),
            **({"metric": cell.metric} if cell.metric else {}),
            **({"graphs": True} if captured(cell, row, self.device) else {}),
            **({"compile": True} if cell.compiled else {}),
            **({"film": film} if (film := self.engine.film(cell)) else {}),
        }

    def _own_weights(self, reducer: Reducer) -> dict[str, str]:
        """In the place of a method's own checkpoints, what their files hold: another folder may have the same."""
        named = {field: getattr(reducer, field) for field in reducer.checkpoints}
        return {field: self.engine.weights_digest(source) for field, source in named.items() if source is not None}

    def open(self, cell: Cell, weights: str, part: str | None = None) -> Journal:
        """Raises UserError for a file that is damaged."""
        identity = self.identity(cell, weights)
        path = cell_files.journal_of(self.out, cell.key, journal.identity_hash(identity))
        log = Journal(path, identity, part, self._made)
        if self.keep and log.result is None and (older := older_cell(self.out, identity)):
            return Journal(*older)
        return log

    def _made(self) -> dict[str, Any]:
        """The provenance of what is answered now. It is not part of a cell's identity."""
        return {**self._session, "date": provenance.now()}

    @cached_property
    def _session(self) -> dict[str, Any]:
        return provenance.session(self.device)

    def differences(self, cell: Cell, weights: str, log: Journal) -> list[str]:
        """The parts of its identity in which a journal that `keep` took differs from the cell of today."""
        return differences(log.identity, self.identity(cell, weights)) if self.keep else []

    def set_aside(self, cells: Iterable[Cell], weights: str) -> None:
        """Move the existing journals of cells to samples/replaced/, but none that this run has written."""
        for cell in cells:
            identity = self.identity(cell, weights)
            id = journal.identity_hash(identity)
            if id in self._moved:
                continue
            self._moved.add(id)
            for path in cell_files.existing(self.out, id):
                Journal(path, identity).set_aside()

    def recorded(self, cells: Iterable[Cell], weights: str) -> dict[str, list[int]]:
        """For each cell with `batch_size: auto`, by key, the sizes of the journals that it has, the first one to take.

        A finished journal comes first, then the larger size. Cells without a journal, or without an identity, are left
        out. With `keep`, journals of earlier code count as well.
        """
        code = CODE if self.keep else ()
        known: dict[str, list[tuple[bool, int]]] = {}
        for identity, done in cell_files.headers(self.out):
            if type(identity.get("batch_size")) is int:
                known.setdefault(_but(identity, "batch_size", *code), []).append((done, identity["batch_size"]))
        found = {}
        for cell in cells:
            if not known or cell.batch_size != AUTO:
                continue
            with contextlib.suppress(Exception):  # `open` reports the same error
                if sizes := known.get(_but(self.identity(cell, weights), "batch_size", *code)):
                    found[cell.key] = list(dict.fromkeys(size for _, size in sorted(sizes, reverse=True)))
        return found


def _but(identity: Mapping[str, Any], *names: str) -> str:
    """An identity without these parts, to compare it by."""
    return journal.canonical({name: part for name, part in identity.items() if name not in names})
