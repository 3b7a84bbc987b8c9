"""What the converters of benchmarks' own question files share: reading them whole, and writing one parquet file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hidrop.atomic_file import make_folder, replacing
from hidrop.errors import UserError
from hidrop.regular_files import Unreadable, read_bytes

if TYPE_CHECKING:
    import pyarrow


def content_of(path: Path) -> bytes:
    """A file's content. Raises UserError for a file that cannot be read."""
    try:
        return read_bytes(path)
    except Unreadable as reason:
        raise UserError(f"{path}: cannot be read: {reason}") from None


def parsed(path: Path, content: bytes) -> Any:
    """The value in a JSON file. Raises UserError for anything else."""
    try:
        return json.loads(content)
    except ValueError:  # not UTF-8, or not JSON
        raise UserError(f"{path}: not JSON") from None


def check_complete(paths: Sequence[Path], names: Sequence[str], whose: str) -> None:
    """Raises UserError unless the files of a folder are exactly those with these names. whose: for the message."""
    folder, there = paths[0].parent, [path.name for path in paths]
    if lacking := [name for name in names if name not in there]:
        raise UserError(f"{folder}: the questions are not complete. Missing: {', '.join(lacking)}")
    if more := [name for name in there if name not in names]:
        raise UserError(f"{folder}: not one of {whose} files: {', '.join(more)}. Move it away")


def write_table(table: pyarrow.Table, path: Path) -> None:
    """Write a parquet file in one step. Raises CannotWrite."""
    import pyarrow.parquet as parquet

    make_folder(path.parent)
    with replacing(path) as file:
        parquet.write_table(table, file)
