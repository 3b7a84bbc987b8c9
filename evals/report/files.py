"""Write the files of a leaderboard, each atomically."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evals.report.columns import CsvValue, columns_of
from evals.report.latex import latex
from evals.report.rows import TableRow, rows_of, tasks_of
from evals.report.text import markdown
from evals.store.lock import locked
from evals.store.result_document import ResultDocument
from hidrop.atomic_file import write_atomically


def write(document: ResultDocument, out: Path) -> list[Path]:
    """Write leaderboard.md, .csv, .tex and .json into `out`, which is created if missing; return their paths.

    Each file is written atomically, under the folder's lock: a reader sees the old file or the new one. Raises
    UserError if another process works in the folder, CannotWrite if it is not writable.
    """
    texts = {"md": markdown(document), "csv": csv_text(document), "tex": latex(document), "json": json_text(document)}
    paths = {suffix: out / f"leaderboard.{suffix}" for suffix in texts}
    with locked(out):
        for suffix, path in paths.items():
            write_atomically(path, texts[suffix])
    return list(paths.values())


def json_text(document: Mapping[str, Any], indent: int | None = 1) -> str:
    """The document as strict JSON, with null for NaN and infinities. Ends with a newline."""
    return json.dumps(finite(document), indent=indent, allow_nan=False, ensure_ascii=False) + "\n"


def finite(value: Any) -> Any:
    """A copy of JSON types only, with None for NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def csv_text(document: ResultDocument) -> str:
    """One line per model, method, budget and seed, in operations, bytes and milliseconds. Missing values are empty."""
    rows = rows_of(document)
    fields: dict[str, Callable[[TableRow], CsvValue]] = {}
    for column in columns_of(rows, tasks_of(document)):
        fields |= column.fields
    text = io.StringIO()
    writer = csv.DictWriter(text, list(fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: value(row) for name, value in fields.items()} for row in rows)
    return text.getvalue()
