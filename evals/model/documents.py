"""Documents with their images as they are in the files, where lmms-eval would have turned them by their EXIF data.

lmms-eval's tasks hold datasets whose image columns decode by themselves, and turn each image on the way. A protocol
that does not turn images (`Protocol.turns_images`) must see the same pixels here as in a matrix, so it decodes them
itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.tasks.any_columns import is_absent
from evals.tasks.build import decode


def unturned(documents: Any) -> Any:
    """`documents`, a datasets.Dataset or anything with documents by number, so that images are not turned.

    Image columns, and columns that are lists of images, are decoded when a document is read. Columns that do not decode
    by themselves (those of a matrix) stay as they are.
    """
    columns = {name: plain for name, kind in _features(documents).items() if (plain := _undecoded(kind)) is not None}
    if not columns:
        return documents
    for name, kind in columns.items():
        documents = documents.cast_column(name, kind)
    return _Unturned(documents, tuple(columns))


class _Unturned:
    """Documents by number, with the images of `columns` decoded by PIL and nothing else."""

    def __init__(self, documents: Any, columns: Sequence[str]) -> None:
        self._documents, self._columns = documents, columns

    def __getitem__(self, number: int) -> dict[str, Any]:
        found = dict(self._documents[number])
        return found | {name: _decoded(found[name]) for name in self._columns}


def _decoded(image: Any) -> Any:
    if isinstance(image, list):
        return [_decoded(one) for one in image]
    return None if is_absent(image) else decode(image, turned=False)  # as datasets does


def _features(documents: Any) -> Mapping[str, Any]:
    return getattr(documents, "features", None) or {}


def _undecoded(kind: Any) -> Any:
    """The feature that leaves an image column's images undecoded; None for a column of another kind."""
    import datasets

    if isinstance(kind, datasets.Image):
        return datasets.Image(decode=False) if kind.decode else None
    if isinstance(kind, datasets.List):
        inner = _undecoded(kind.feature)
        return None if inner is None else datasets.List(inner)
    return None
