"""A row of the tables of lmms-eval's tasks, and how its documents are written as the official files have them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.evals.tasks.table import png
from tests.films import write_film

# A stand-in's answer to a document: a text, or a loss for each choice.
Said = str | tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """A task's documents with the official columns, the answers to them, and what lmms-eval's rules make of these.

    file: the documents' official file, below the data folder. said: the answers, in the order of the documents that the
    task makes of its file. value: of the metric, worked out by hand; None for a task that is not scored here. extra:
    the further metrics. shown: the number of images, or videos, of each document. films: the names of the videos, below
    the data folder. readme: the repository's README, in the first folder of `file`. metric: the one that a user names;
    None: the task's first one.
    """

    file: str
    documents: Sequence[Mapping[str, Any]]
    said: Sequence[Said]
    value: float | None
    shown: Sequence[int]
    extra: Mapping[str, float] = field(default_factory=dict)
    films: Sequence[str] = ()
    readme: str = ""
    metric: str | None = None

    def put(self, folder: Path, documents: Sequence[Mapping[str, Any]] | None = None) -> Path:
        """Write the row's files into a data folder; `documents` instead of its own. Returns the questions' file."""
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(self.documents if documents is None else documents, path)
        if self.readme:
            (folder / Path(self.file).parts[0] / "README.md").write_text(self.readme)
        for number, film in enumerate(self.films):
            if not (folder / film).exists():
                write_film(folder / film, frames=8, codec="mpeg4", shade=20 * number)
        return path


def picture(number: int) -> dict[str, Any]:
    """An image of its own colour, as a parquet file holds it."""
    return png((40 * number % 256, 200 - 30 * number % 200, 90 + number % 100))


def _write(documents: Sequence[Mapping[str, Any]], path: Path) -> None:
    if path.suffix == ".parquet":
        _write_parquet([dict(doc) for doc in documents], path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(doc) + "\n" for doc in documents), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(list(documents)), encoding="utf-8")
    else:
        import csv

        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(documents[0]), dialect="excel-tab" if path.suffix == ".tsv" else "excel")
            writer.writeheader()
            writer.writerows(documents)


def _write_parquet(documents: list[dict[str, Any]], path: Path) -> None:
    """Columns of images, single ones or in lists, become datasets' own kind."""
    import datasets

    kinds = {name: kind for name in documents[0] if (kind := _kind(doc[name] for doc in documents))}
    data = datasets.Dataset.from_list(documents)
    for decode in (False, True):  # undecoded first, or a broken image would be opened
        for name, kind in kinds.items():
            image = datasets.Image(decode=decode)
            data = data.cast_column(name, datasets.List(image) if kind == "list" else image)
    data.to_parquet(str(path))


def _kind(values: Iterator[Any]) -> str | None:
    """Whether a column holds images ("one"), lists of images ("list"), or something else."""
    for value in values:
        if isinstance(value, dict) and set(value) == {"bytes", "path"}:
            return "one"
        if isinstance(value, list) and value and isinstance(value[0], dict) and set(value[0]) == {"bytes", "path"}:
            return "list"
    return None
