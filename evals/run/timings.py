"""Timings of a model's methods. They are reused between runs until something that they depend on changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.matrix.profile_settings import ProfileSettings
from evals.matrix.resolve import MatrixRow
from evals.matrix.schema import Cell
from evals.run.engine import Engine
from evals.store import journal
from evals.store.cell_files import slug
from evals.store.result_document import ProfileEntry
from evals.store.timings_document import SCHEMA, TIMINGS, StoredTiming, TimingsDocument
from hidrop.atomic_file import make_folder, write_atomically
from hidrop.errors import UserError
from hidrop.regular_files import own_folder


class Timings:
    """The timings of one model's methods, by label. If one is missing, all are taken again, because the methods of a
    run are interleaved, so that background load affects all of them equally.

    Unlike for answers, hardware and library versions are part of the identity of timings.
    """

    def __init__(
        self,
        folder: Path,
        cell: Cell,
        methods: Mapping[str, MatrixRow],
        settings: ProfileSettings,
        device: str,
        weights: str,
    ):
        from hidrop.provenance import describe, versions

        self.model, self.methods, self.settings = cell.model, methods, settings
        self.path = folder / f"{slug(cell.model)}.json"
        shared = {
            "weights": weights,
            "dtype": cell.dtype,
            "attention": cell.attention,
            "quantization": cell.quantization,
            "device_map": cell.spec.device_map,
            **({"compile": True} if cell.compiled else {}),
            "settings": settings.model_dump(mode="json"),
            "hardware": describe(device),
            "versions": versions(),
        }
        self.ids = {
            label: journal.identity_hash(
                {"method": [row.method, row.source, row.reducer.identity, row.plan.entering], **shared}
            )
            for label, row in methods.items()
        }
        self.stored = self._read()

    def _read(self) -> dict[str, StoredTiming]:
        """The stored timings. Empty for a damaged file or another version, because timings are cheap to repeat."""
        try:
            return TIMINGS.read(self.path)["methods"]
        except UserError:
            return {}

    def _has(self, label: str) -> bool:
        return label in self.stored and self.stored[label]["id"] == self.ids[label]

    @property
    def missing(self) -> bool:
        """Whether a method has to be timed."""
        return not all(map(self._has, self.methods))

    def forget(self) -> None:
        """Remove the stored timings of these methods."""
        for label in self.methods:
            self.stored.pop(label, None)
        if self.path.exists():
            self._write()

    def rows(self) -> list[ProfileEntry]:
        """The document's `profiles` entries, of the timed methods."""
        return [row for label in self.methods if self._has(label) for row in self.stored[label]["rows"]]

    def measure(self, loaded: Any, engine: Engine) -> None:
        """Time every method on the loaded model and store the rows."""
        profiles = engine.profile(loaded, {label: row.reducer for label, row in self.methods.items()}, self.settings)
        for label, measured in profiles.items():
            rows = measured.rows(model=self.model, method=self.methods[label].method)
            self.stored[label] = {"id": self.ids[label], "rows": rows}
        self._write()

    def _write(self) -> None:
        make_folder(own_folder(self.path.parent))
        content: TimingsDocument = {"schema": SCHEMA, "methods": self.stored}
        write_atomically(self.path, json.dumps(content, indent=1) + "\n")
