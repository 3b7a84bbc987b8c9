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
from evals.store.journal import write_atomically
from evals.store.result_document import ResultDocument
from hidrop.errors import UserError


def write(document: ResultDocument, out: Path) -> list[Path]:
    """Write leaderboard.md, .csv, .tex and .json into `out`, which is created if missing; return their paths.

    Each file is written atomically: a reader sees the old file or the new one. Raises UserError if the folder is not
    writable.
    """
    texts = {"md": markdown(document), "csv": csv_text(document), "tex": latex(document), "json": json_text(document)}
    paths = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            path = out / f"leaderboard.{suffix}"
            write_atomically(path, text)
            paths.append(path)
    except OSError as error:
        raise UserError(f"{out}: cannot write the results there: {error.strerror}. Choose another --out") from error
    return paths


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
