"""The files in results/bench/: their names, an unfinished one that goes on, and a list of them.

A file is written after every point, so a run that was killed loses the point that it was measuring. The same command
finishes it, with the same code. Finished files are never overwritten: settings and time are part of a name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.store.folders import DOCUMENT
from hidrop import strict_json
from hidrop.atomic_file import make_folder, write_atomically
from hidrop.errors import UserError
from hidrop.regular_files import Unreadable, read_text

if TYPE_CHECKING:
    from evals.bench.document import BenchDocument, TrainingDocument

HEADINGS = ("file", "model", "device", "points", "methods", "versions", "commit", "date")
# What has to be equal for a run to go on with an unfinished file.
SAME = (
    "schema", "model", "source", "weight_bytes", "device", "dtype", "attention", "compiled", "memory_kept", "sizes",
    "hardware", "versions", "code", "settings", "methods",
)  # fmt: skip
MOST_BYTES, MOST_DEPTH = 1 << 28, 64
LONGEST = 100  # characters of a model's name in that of a file, which may have 255


def machine(hardware: Mapping[str, Any]) -> str:
    """The GPU, or the processor and its threads, as a part of a file's name."""
    name = re.sub(r"[^a-z0-9]+", "-", str(hardware.get("gpu") or hardware["cpu"]).lower()).strip("-")
    return name if hardware.get("gpu") else f"{name}-{hardware['threads']}-threads"


def new_path(document: Mapping[str, Any], out: Path, title: str) -> Path:
    """A name that no file has: model, type, compiled or not, machine, what was swept (`title`), and the time."""
    kind = f"{document['dtype']}-compiled" if document.get("compiled") else document["dtype"]
    model = re.sub(r"[^A-Za-z0-9._]+", "-", document["model"]).strip("-.")[-LONGEST:]
    parts = (model, kind, machine(document["hardware"]), title, f"{datetime.now(UTC):%Y%m%d-%H%M%S}")
    stem = "-".join(filter(None, parts))
    path, number = out / f"{stem}.json", 2
    while path.exists():
        path, number = out / f"{stem}-{number}.json", number + 1
    return path


def unfinished(document: Mapping[str, Any], out: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest file of an earlier run with the same settings that was not finished; None without one."""
    wanted = json.loads(json.dumps({name: document.get(name) for name in SAME}))
    for path in sorted(out.glob("*.json"), reverse=True):
        found = _mapping(path)
        if found and found.get("points_left") and {name: found.get(name) for name in SAME} == wanted:
            return path, found
    return None


def _mapping(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None if the file cannot be read, is not JSON, or holds another value."""
    try:
        text = read_text(path, MOST_BYTES)
        strict_json.check_depth(text, MOST_DEPTH)
        found = strict_json.value(text)
    except (Unreadable, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write(path: Path, document: Mapping[str, Any]) -> None:
    make_folder(path.parent)
    write_atomically(path, json.dumps(document, indent=1) + "\n")


def listed(folder: Path) -> Iterator[tuple[Path, BenchDocument | TrainingDocument]]:
    """Every file of bench and bench-train in `folder` or two levels below. Raises UserError for a damaged one."""
    for path in below(folder):
        if (document := document_of(path)) is not None:
            yield path, document


def below(folder: Path) -> list[Path]:
    """The JSON files in `folder` or two levels below."""
    return sorted(path for depth in ("", "*/", "*/*/") for path in folder.glob(f"{depth}*.json"))


def document_of(path: Path) -> BenchDocument | TrainingDocument | None:
    """The document in a JSON file; None for one of another kind. Raises UserError for a damaged one."""
    found = _mapping(path)
    if found is None or "rows" not in found or not ("ceilings" in found or found.get("kind") == "training"):
        return None
    return read(path)


def at(place: Path) -> list[Path] | None:
    """The files of bench at a path: the file itself, or the JSON files of a folder.

    None for a results folder, and for a folder without such files.
    """
    if place.suffix == ".json" and not place.is_dir():
        return [place]
    if any((place / name).exists() for name in (DOCUMENT, "samples")):
        return None
    return sorted(place.glob("*.json")) or None


def read(path: Path) -> BenchDocument | TrainingDocument:
    """A file of bench or of bench-train. Raises UserError for any other, with the file and the way out."""
    from evals.bench.document import BENCH, TRAINING

    if path.name == DOCUMENT:
        raise UserError(f"{path}: the table of a results folder, no file of bench. Name the folder: {path.parent}")
    found = _mapping(path)
    return (TRAINING if found and found.get("kind") == "training" else BENCH).read(path)


def read_all(paths: Sequence[Path]) -> dict[Path, BenchDocument | TrainingDocument]:
    """The documents by path. Raises UserError like `read`, and for a file that is given twice."""
    whole = [path.resolve() for path in paths]
    if twice := next((path for path, one in zip(paths, whole, strict=True) if whole.count(one) > 1), None):
        raise UserError(f"{twice}: given twice. Name each file of bench once, or its folder alone")
    return {path: read(path) for path in paths}


def entry(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """A file in a list, for --json: everything except the rows and their points."""
    return {"path": str(path)} | {name: value for name, value in document.items() if name not in ("rows", "points")}


def cells(path: Path, document: Mapping[str, Any], below: Path) -> tuple[str, ...]:
    """The line of a file in a list."""
    hardware, versions = document["hardware"], document["versions"]
    left, points = document.get("points_left", 0), len(document.get("points", ()))
    return (
        path.relative_to(below).as_posix(),
        f"{document['model']} {document['dtype']}",
        str(hardware.get("gpu") or f"{hardware['cpu']}, {hardware['threads']} threads"),
        f"{points} of {points + left}" if left else str(points or "-"),
        ", ".join(dict.fromkeys(row["method"] for row in document["rows"])),
        f"torch {versions.get('torch')}",
        document["commit"] or "-",
        document["date"][:10],
    )
