"""The column of the images in a parquet file: what it holds, and the rows whose image is not in the file."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from evals.tasks.base import IMAGE
from hidrop.regular_files import file_state

if TYPE_CHECKING:
    import pyarrow

# Rows that are read at once: images are large.
ROWS = 64


def holds(path: Path, *, lists: bool = True) -> str | None:
    """What the column holds if it cannot hold images; None if it can.

    Images are a struct of bytes and path, bytes, or paths; with `lists` also a list of these. Without a column there
    are none to complain about.
    """
    import pyarrow.parquet as parquet
    from pyarrow import types

    schema = parquet.read_schema(path)
    if IMAGE not in schema.names:
        return None
    column = schema.field(IMAGE).type
    kind = _of_one(column) if lists else column
    if types.is_struct(kind):
        names = {kind.field(place).name for place in range(kind.num_fields)}
        return None if names & {"bytes", "path"} else str(column)
    return None if _is_bytes(kind) or _is_text(kind) or types.is_null(kind) else str(column)


def rows_without_bytes(path: Path) -> Iterator[tuple[int, str | None]]:
    """(row, path) of each image that is not bytes in the file; path None for an image that is not there.

    Reads the footer only if it says that all images are there, as in all official files.
    """
    import pyarrow.parquet as parquet

    if _all_are_bytes(path, file_state(path)):
        return
    with parquet.ParquetFile(path) as file:
        yield from ((row, name) for row, content, name in _images(file) if content is None)


def named_files(path: Path) -> Iterator[str]:
    """The paths of images that are not bytes in the file, in columns of any name, one image each or a list."""
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        for field in file.schema_arrow:
            kind = _of_one(field.type)
            if not hasattr(kind, "names") or not {"bytes", "path"} <= set(kind.names):
                continue
            leaves = {file.schema.column(n).path for n in range(len(file.schema))}
            own = [leaf for leaf in leaves if leaf.startswith(f"{field.name}.") and leaf.endswith(".bytes")]
            if all(_no_nulls(file, leaf) for leaf in own):
                continue
            for batch in file.iter_batches(batch_size=ROWS, columns=[field.name]):
                for held in batch.column(0).to_pylist():
                    for image in held if isinstance(held, list) else [held]:
                        if image and image["bytes"] is None and image["path"] is not None:
                            yield image["path"]


def rows_of_no_bytes(path: Path) -> Iterator[int]:
    """The rows whose image has 0 bytes, as in a page of zeros. Reads the whole column."""
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        if IMAGE in file.schema_arrow.names and not holds(path):
            yield from (row for row, content, _ in _images(file) if content == b"")


def _images(file: pyarrow.parquet.ParquetFile) -> Iterator[tuple[int, bytes | None, str | None]]:
    """Row, bytes and path of each image. A row with an empty list has one without bytes and path."""
    row = 0
    for batch in file.iter_batches(batch_size=ROWS, columns=[IMAGE]):
        for held in batch.column(0).to_pylist():
            for value in (held or [None]) if isinstance(held, list) else [held]:
                if isinstance(value, dict):
                    yield row, value.get("bytes"), value.get("path")
                else:
                    yield (row, value, None) if isinstance(value, bytes) else (row, None, value)
            row += 1


@functools.lru_cache(maxsize=256)  # every cell of a matrix asks; `state` changes when the file does
def _all_are_bytes(path: Path, state: tuple[int, ...]) -> bool:
    """Whether no image lacks its bytes. A file without a column of images has none that does."""
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        if IMAGE not in file.schema_arrow.names or holds(path):
            return True
        # A list's leaf has another path: the footer would not say whether a list is empty.
        leaf = IMAGE if _is_bytes(file.schema_arrow.field(IMAGE).type) else f"{IMAGE}.bytes"
        return _no_nulls(file, leaf) or all(content is not None for _, content, _ in _images(file))


def _no_nulls(file: pyarrow.parquet.ParquetFile, leaf: str) -> bool:
    """Whether the footer says that a leaf column has no null."""
    footer, seen = file.metadata, False
    for group in range(footer.num_row_groups):
        for place in range(footer.num_columns):
            column = footer.row_group(group).column(place)
            if column.path_in_schema == leaf:
                statistics, seen = column.statistics, True
                if statistics is None or not statistics.has_null_count or statistics.null_count:
                    return False
    return seen


def _of_one(kind: pyarrow.DataType) -> pyarrow.DataType:
    """The type of one image: that of the elements of a list."""
    from pyarrow import types

    return kind.value_type if types.is_list(kind) or types.is_large_list(kind) else kind


def _is_bytes(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_text(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
