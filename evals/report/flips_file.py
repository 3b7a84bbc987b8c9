"""The samples on which a run and a published file differ, as a file for other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from evals.report.agreement import Flip
from evals.report.files import csv_cell
from hidrop.atomic_file import write_atomically
from hidrop.errors import UserError
from hidrop.visible import visible_json, visible_values

ENDINGS = (".jsonl", ".csv")
SHOWN = 10


def asked(option: str) -> tuple[int, Path | None]:
    """How many flips to print, and the file for all of them: `--flips 20`, or `--flips flips.jsonl`.

    Raises UserError for anything else, before work that takes minutes.
    """
    if option.isdecimal():
        return int(option), None
    path = Path(option)
    if path.suffix not in ENDINGS:
        raise UserError(
            f"--flips {option}: give a number of samples to print, or a file with the ending .jsonl or .csv"
        )
    if not path.parent.is_dir():
        raise UserError(f"--flips {option}: {path.parent} is not a folder")
    return SHOWN, path


def write(flips: Sequence[Flip], path: Path) -> None:
    """Write all flips: a JSON object on each line, or a row of a CSV file."""
    rows = [visible_values(asdict(flip)) for flip in flips]
    if path.suffix == ".jsonl":
        write_atomically(path, "".join(visible_json(json.dumps(row, ensure_ascii=False)) + "\n" for row in rows))
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Flip))
    writer.writerows([csv_cell(value) for value in row.values()] for row in rows)
    write_atomically(path, text.getvalue())
