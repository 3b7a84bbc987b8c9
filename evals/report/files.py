"""Write the files of a leaderboard, each atomically."""

from __future__ import annotations

import csv
import io
import json
import math
import re
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
from hidrop.visible import visible_json, visible_values

FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?")


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
    return visible_json(json.dumps(finite(document), indent=indent, allow_nan=False, ensure_ascii=False)) + "\n"


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
    rows = rows_of(document := visible_values(document))
    fields: dict[str, Callable[[TableRow], CsvValue]] = {}
    for column in columns_of(rows, tasks_of(document)):
        fields |= column.fields
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, fields))
    writer.writerows([csv_cell(value(row)) for value in fields.values()] for row in rows)
    return text.getvalue()


def csv_cell(value: CsvValue) -> CsvValue:
    """A cell that no spreadsheet takes for a formula: a quote goes before a text that could be one. Numbers stay."""
    if isinstance(value, str) and FORMULA.match(value) and not NUMBER.fullmatch(value):
        return f"'{value}"
    return value
