"""Writes a task's documents as its files have them: parquet files, JSON, and the videos that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evals.tasks import get_task
from tests.evals.tasks.table import CASES
from tests.films import write_film


def write(documents: list[dict[str, Any]], path: Path) -> None:
    """Documents as a parquet file whose `image` is a datasets.Image, or a list of them where documents have lists.

    Bytes are stored as they are, broken or not.
    """
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_list(documents)
    if "image" in data.column_names:
        for kind in (datasets.Image(decode=False), datasets.Image()):
            listed = any(isinstance(document["image"], list) for document in documents)
            data = data.cast_column("image", datasets.List(kind) if listed else kind)
    data.to_parquet(str(path))


def put(name: str, folder: Path, documents: list[dict[str, Any]] | None = None, file: str | None = None) -> Path:
    """A task's documents (by default all of the table's) in its folder, and its videos. Returns the questions' file.

    file: by default the one of the embedded benchmark's layout, and the official one where questions are no parquet
    file.
    """
    case, source = CASES[name], get_task(name).source
    path = folder / (file or (case.file if source.convert else source.plain))
    documents = case.documents if documents is None else documents
    if path.suffix == ".json":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(documents))
    else:
        write(documents, path)
    for number, film in enumerate(case.films):
        if not (folder / film).exists():
            write_film(folder / film, frames=8, codec="mpeg4", shade=20 * number)
    return path
