"""POPE's own question files (JSON lines, one file for each category) as one parquet file.

LLaVA's evaluation reads them as they were at an early commit of POPE's repository, with 2,910 random questions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.tasks.question_files import check_complete, content_of, write_table
from hidrop.cache_folder import cache_folder
from hidrop.errors import UserError

CATEGORIES = ("adversarial", "popular", "random")
PREFIX = "coco_pope_"  # the file's name goes on with the category
FIELDS = ("question_id", "image", "text", "label")


def as_parquet(paths: Sequence[Path]) -> Path:
    """One parquet file in the cache folder, with the columns of the other POPE data; made once for the same contents.

    `image_source` is the image's name without its ending. Raises UserError, with the line, for a file of another kind,
    and if they are not one file for each of `CATEGORIES`: LLaVA's value is the mean of the three.
    """
    check_complete(paths, [f"{PREFIX}{category}.json" for category in CATEGORIES], "POPE's")
    contents = [(path, content_of(path)) for path in paths]
    digest = hashlib.sha256()
    for path, content in contents:
        digest.update(f"{path.name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    made = cache_folder() / f"pope-questions-{digest.hexdigest()[:16]}.parquet"
    if not made.is_file():
        _write([row for path, content in contents for row in _rows(path, content)], made)
    return made


def _rows(path: Path, content: bytes) -> list[dict[str, str]]:
    category, rows = path.stem.removeprefix(PREFIX), []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            asked = json.loads(line)
        except ValueError:  # not UTF-8, or not JSON
            raise UserError(f"{path}: line {number} is not JSON") from None
        rows.append(_row(asked, category, f"{path}: line {number}"))
    if not rows:
        raise UserError(f"{path}: no questions")
    return rows


def _row(asked: Any, category: str, place: str) -> dict[str, str]:
    if not isinstance(asked, dict) or any(not isinstance(asked.get(name), str | int) for name in FIELDS):
        raise UserError(f"{place}: not a question of POPE, which has the fields {', '.join(FIELDS)}")
    if asked["label"] not in ("yes", "no"):
        raise UserError(f"{place}: label {asked['label']!r} is neither yes nor no")
    return {
        "question_id": str(asked["question_id"]),
        "question": str(asked["text"]),
        "answer": asked["label"],
        "category": category,
        "image_source": Path(str(asked["image"])).stem,
    }


def _write(rows: list[dict[str, str]], path: Path) -> None:
    import pyarrow

    write_table(pyarrow.Table.from_pylist(rows), path)
