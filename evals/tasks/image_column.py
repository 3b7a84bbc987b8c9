"""The column of the images in a parquet file: what it holds, and the rows whose image is not in the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.tasks.base import IMAGE

if TYPE_CHECKING:
    import pyarrow

# Rows that are read at once: images are large.
ROWS = 64


def holds(path: Path) -> str | None:
    """What the column holds if it cannot hold images; None if it can.

    Images are a struct of bytes and path, bytes, or paths. Without a column there are none to complain about.
    """
    import pyarrow.parquet as parquet
    from pyarrow import types

    schema = parquet.read_schema(path)
    if IMAGE not in schema.names:
        return None
    kind = schema.field(IMAGE).type
    if types.is_struct(kind):
        names = {kind.field(place).name for place in range(kind.num_fields)}
        return None if names & {"bytes", "path"} else str(kind)
    return None if _is_bytes(kind) or _is_text(kind) or types.is_null(kind) else str(kind)


def rows_without_bytes(path: Path) -> Iterator[tuple[int, str | None]]:
    """(row, path) of each image that is not bytes in the file; path None for a row without an image.

    Reads the footer only if it says that all images are there, as in all official files.
    """
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        if IMAGE not in file.schema_arrow.names or holds(path) or _all_are_bytes(file):
            return
        row = 0
        for batch in file.iter_batches(batch_size=ROWS, columns=[IMAGE]):
            for value in batch.column(0).to_pylist():
                content, name = _parts(value)
                if content is None:
                    yield row, name
                row += 1


def _parts(value: Any) -> tuple[bytes | None, str | None]:
    """The bytes and the path of an image."""
    if isinstance(value, dict):
        return value.get("bytes"), value.get("path")
    return (value, None) if isinstance(value, bytes) else (None, value)


def _all_are_bytes(file: pyarrow.parquet.ParquetFile) -> bool:
    """Whether the footer says that no image lacks its bytes."""
    kind = file.schema_arrow.field(IMAGE).type
    leaf = IMAGE if _is_bytes(kind) else f"{IMAGE}.bytes"
    footer, seen = file.metadata, False
    for group in range(footer.num_row_groups):
        for place in range(footer.num_columns):
            column = footer.row_group(group).column(place)
            if column.path_in_schema == leaf:
                statistics, seen = column.statistics, True
                if statistics is None or not statistics.has_null_count or statistics.null_count:
                    return False
    return seen


def _is_bytes(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _is_text(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
