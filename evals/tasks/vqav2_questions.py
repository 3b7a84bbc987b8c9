"""VQA's own question files of the test split (JSON) as one parquet file, which says what is in test-dev.

The server takes a file with all questions of the test split also where it scores test-dev only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.tasks.question_files import check_complete, content_of, parsed, write_table
from hidrop.cache_folder import cache_folder
from hidrop.errors import UserError

FILES = "v2_OpenEnded_mscoco_test*2015_questions.json"
WHOLE, PART = (FILES.replace("*", name) for name in ("", "-dev"))
ARCHIVE = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa/v2_Questions_Test_mscoco.zip"
TEST_DEV, REST = "test-dev", "other"  # the values of the column `part`
FIELDS = {"question_id": int, "image_id": int, "question": str}


def as_parquet(paths: Sequence[Path]) -> Path:
    """One parquet file in the cache folder, in the order of the whole split; made once for the same contents.

    Raises UserError for a file of another kind, if one of the two files is not there, and if a question of test-dev is
    not in the whole split.
    """
    folder = paths[0].parent
    check_complete(paths, (WHOLE, PART), "VQA's")
    contents = {name: content_of(folder / name) for name in (WHOLE, PART)}
    digest = hashlib.sha256()
    for content in contents.values():
        digest.update(hashlib.sha256(content).digest())
    made = cache_folder() / f"vqav2-questions-{digest.hexdigest()[:16]}.parquet"
    if not made.is_file():
        whole, part = (_questions(folder / name, content) for name, content in contents.items())
        _write(whole, {row["question_id"] for row in part}, folder, made)
    return made


def _questions(path: Path, content: bytes) -> list[dict[str, Any]]:
    found = parsed(path, content)
    rows = found.get("questions") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: no list of questions")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or any(not isinstance(row.get(name), kind) for name, kind in FIELDS.items()):
            raise UserError(f"{path}: question {number} (from 0) does not have the fields {', '.join(FIELDS)}")
    return rows


def _write(rows: list[dict[str, Any]], part: set[int], folder: Path, path: Path) -> None:
    import pyarrow

    columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in FIELDS}
    if strange := part - set(columns["question_id"]):
        raise UserError(f"{folder}: question {min(strange)} of {PART} is not in {WHOLE}. Get both from {ARCHIVE}")
    columns["part"] = [TEST_DEV if number in part else REST for number in columns["question_id"]]
    write_table(pyarrow.table(columns), path)
