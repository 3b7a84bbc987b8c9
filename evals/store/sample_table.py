"""The samples of a results folder as one parquet table: `export` writes it, and `compare` reads it without journals.

Committed results leave their journals out. This table holds what pairs two runs (answers, readings and scores by
sample), in a small part of their size. It has a row for each sample of each finished cell. Columns with values of
several types are JSON; the file's metadata names them.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

from evals.store.folders import in_commit, samples_of
from evals.store.records import ScoredAnswer
from evals.store.result_document import CellEntry, ResultDocument, cell_key
from evals.tasks.registry import TASKS
from hidrop.atomic_file import replacing
from hidrop.errors import UserError
from hidrop.program import program
from hidrop.regular_files import Unreadable, read_bytes

NAME = "samples.parquet"
PLACES = (NAME, f"export/{NAME}")  # in a results folder
# The fields of a sample's answer and of its score, in the order of the columns. `cell`: the identity hash.
CELL = ("model", "method", "label", "task", "cell")
ANSWER = ("prompt_hash", "prompt_tokens", "visual_tokens", "new_tokens", "milliseconds", "error", "batch", "answer")
SCORE = ("reading", "target", "score", "image_key", "category", "group")
OPTIONAL = ("weight", "digits", "item", "metric")  # a score has them or lacks them; see `records.ScoreRecord`
ALWAYS_JSON = ("target", "group", "item")
METADATA = b"hidrop"
SCHEMA = 1
CLOSE, NEAR = 1e-9, 1e-6  # relative and absolute, as in `recomputed`


def rows_of(folder: Path, document: ResultDocument) -> list[dict[str, Any]]:
    """A row for each sample of each cell with a finished journal; values as the journal has them."""
    found = []
    for cell in document["cells"]:
        names = {**{name: cell[name] for name in CELL[:-1]}, "cell": cell["id"]}  # type: ignore[literal-required]
        for sample in samples_of(folder, cell) or ():
            known: Mapping[str, Any] = sample
            own = {name: known.get(name) for name in ("doc_id", *ANSWER, *SCORE)}
            found.append({**names, **own, **{name: known[name] for name in OPTIONAL if name in known}})
    return found


def write(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write rows as a parquet file."""
    import pyarrow
    import pyarrow.parquet as parquet

    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row))
    coded = [
        name for name in names if name in ALWAYS_JSON or len({type(row.get(name)) for row in rows} - {type(None)}) > 1
    ]
    columns = {name: [_coded(row, name) if name in coded else row.get(name) for row in rows] for name in names}
    table = pyarrow.table(columns)
    about = json.dumps({"schema": SCHEMA, "json": coded, "sha256": _digest(table)}).encode()
    with replacing(path) as file:
        parquet.write_table(table.replace_schema_metadata({METADATA: about}), file, compression="zstd")


def _digest(table: Any) -> str:
    """sha256 of the names and values of a table: parquet's own checksums leave out its headers."""
    return hashlib.sha256(json.dumps(table.to_pydict()).encode()).hexdigest()


def _coded(row: Mapping[str, Any], name: str) -> str | None:
    """JSON; None for a row without the field."""
    return json.dumps(row[name], ensure_ascii=False) if name in row else None


@dataclass(frozen=True)
class SampleTable:
    """The samples by the identity hash of their cell. `place`: where they were read, for messages."""

    place: str
    samples: Mapping[str, list[ScoredAnswer]]

    def of(self, cell: CellEntry, protocol: str) -> list[ScoredAnswer] | None:
        """The samples of a cell, in the order of doc_id; None if the table does not have it.

        protocol: under which the cell's task was asked. Raises UserError if they do not give the cell's value.
        """
        found = self.samples.get(str(cell["id"]))
        if found is None:
            return None
        wrong = len(found) != cell["n"]
        if not wrong and cell["task"] in TASKS and cell["value"] is not None:
            from evals.store.statistics import value_of

            given = value_of(cell["task"], protocol, found)
            wrong = not isclose(given, cell["value"], rel_tol=CLOSE, abs_tol=NEAR)
        if wrong:
            raise UserError(
                f"{self.place}: {cell_key(cell)}: its samples do not give the cell's value in leaderboard.json. The "
                f"table is of another run: write it again with `{program()} export`"
            )
        return found


def file_of(folder: Path) -> Path | None:
    """The table of a results folder; None if it has none."""
    return next((path for name in PLACES if (path := folder / name).is_file()), None)


def read(place: str) -> SampleTable | None:
    """The table of a results folder, or of one in a commit ("REV:results/mini"). None if it has none.

    Raises UserError for a file that is not such a table.
    """
    for name in PLACES:
        path = f"{place.rstrip('/')}/{name}"
        if not Path(place).exists() and ":" in place:
            content = in_commit(*path.split(":", 1))
        else:
            try:
                content = read_bytes(Path(path)) if Path(path).is_file() else None
            except Unreadable as reason:
                raise UserError(f"{path}: cannot be read: {reason}") from None
        if content is not None:
            return SampleTable(path, _parsed(content, path))
    return None


def _parsed(content: bytes, path: str) -> dict[str, list[ScoredAnswer]]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(io.BytesIO(content))
        about = json.loads((table.schema.metadata or {})[METADATA])
        if about["schema"] != SCHEMA:
            raise ValueError(f"schema {about['schema']}, and this version reads {SCHEMA}")
        if about["sha256"] != _digest(table):
            raise ValueError("its values are not those that were written")
        coded, found = set(about["json"]), dict[str, list[Any]]()
        for row in table.to_pylist():
            made = {
                name: json.loads(value) if name in coded and value is not None else value for name, value in row.items()
            }
            absent = [name for name in OPTIONAL if row.get(name) is None]
            found.setdefault(str(row["cell"]), []).append({k: v for k, v in made.items() if k not in absent})
        return {cell: sorted(samples, key=lambda sample: sample["doc_id"]) for cell, samples in found.items()}
    except (pyarrow.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{path}: not a table of samples ({told}). Write it again with `{program()} export`") from None
