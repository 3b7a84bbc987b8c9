"""Data files of other kinds than parquet (JSON, JSON lines, CSV, TSV) as one parquet file in the cache folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.tasks.question_files import content_of
from hidrop.atomic_file import make_folder, replacing
from hidrop.cache_folder import cache_folder
from hidrop.errors import UserError, in_a_line

# datasets' builder for each ending, with its options.
ENDINGS: dict[str, tuple[str, dict[str, Any]]] = {
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
}


def as_one_table(paths: Sequence[Path]) -> Path:
    """One parquet file with the rows of all files; made once for the same contents.

    Raises UserError for a file that cannot be read as what its name says.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(content_of(path)).digest())
    made = cache_folder() / f"table-{digest.hexdigest()[:16]}.parquet"
    if not made.is_file():
        _write(paths, made)
    return made


def _write(paths: Sequence[Path], made: Path) -> None:
    import glob
    import tempfile

    import datasets

    kind = paths[0].suffix
    if kind not in ENDINGS:
        raise UserError(f"{paths[0]}: not a table: its name does not end with .parquet or {', '.join(ENDINGS)}")
    builder, options = ENDINGS[kind]
    files = [glob.escape(str(path.absolute())) for path in paths]
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory() as cache:
            table = datasets.load_dataset(builder, data_files={"rows": files}, split="rows", cache_dir=cache, **options)
            make_folder(made.parent)
            with replacing(made) as file:
                table.to_parquet(file)
    except UserError:
        raise
    except Exception as error:  # of datasets, pyarrow and pandas: a file of another form
        why = in_a_line(error.__cause__ or error)  # datasets' own error does not say it
        raise UserError(f"{paths[0]}: cannot be read as {builder.upper()}: {why}") from None
    finally:
        if shown:
            datasets.enable_progress_bars()
