"""Where a task's data is: the embedded benchmark, a local folder, or the Hub.

A local folder holds the parquet files of the Hub's dataset repositories as they are, so that one `hf download` makes
it. For POPE `data: data` and `data: data/pope` both find data/pope/data/test-*.parquet. The embedded benchmark's own
layout (pope/test.parquet; GQA's file there holds its images) is found the same way.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from evals.tasks.base import IMAGE, LLAVA, Source, Task
from evals.tasks.registry import get_task
from hidrop.errors import UserError

MINI, HUB = "mini", "hub"


@dataclass(frozen=True)
class TaskSpec:
    """One task, its data ("mini", "hub", or a folder) and the protocol it is asked under.

    Raises UserError for an unknown task, and for a protocol that the task does not have.
    """

    name: str
    data: str = MINI
    protocol: str = LLAVA

    def __post_init__(self) -> None:
        known = self.task.protocols
        if self.protocol not in known:
            raise UserError(f"{self.name}: cannot be asked under protocol '{self.protocol}'. Use {' or '.join(known)}")

    @property
    def task(self) -> Task:
        return get_task(self.name)

    @property
    def source(self) -> Source:
        return self.task.source


@dataclass(frozen=True)
class Files:
    """The parquet files of a task; `images` only if they are not in the same files as the questions (GQA)."""

    questions: tuple[Path, ...]
    images: tuple[Path, ...] = ()
    # Images that the files name by a path are read from here only. Relative paths begin at `start`.
    root: Path = Path()
    start: Path = Path()


def locate(spec: TaskSpec) -> Files:
    """The files of a spec whose data is local. The embedded benchmark is built on first use.

    No files if they are not there; `missing` says why in words.
    """
    if spec.data == HUB:
        raise ValueError("the Hub's files are not local")
    if spec.data == MINI:
        from hidrop.mini import ensure

        root = Path(ensure())
    else:
        root = Path(spec.data).expanduser()
    source = spec.source
    for place in (root / source.folder, root / source.repository.split("/")[1], root):
        if questions := tuple(sorted(place.glob(source.files))):
            images = tuple(sorted(place.glob(source.images.files))) if source.images else ()
            return Files(questions, images, root, place)
        if (place / source.plain).is_file():
            return Files((place / source.plain,), root=root, start=place)
    return Files(())


def missing(spec: TaskSpec) -> list[str]:
    """What keeps a task from running, each with the command or path that provides it; empty if nothing does.

    Reads file footers only. The Hub is not checked, because that would already need the network.
    """
    import pyarrow.parquet as parquet

    if spec.data == HUB:
        return []
    source, files = spec.source, locate(spec)
    if not files.questions:
        return [
            f"{spec.name}: no data in '{spec.data}' (looked for {source.folder}/{source.files}). "
            f"Get it with: {source.command}"
        ]
    problems = []
    for path in (*files.questions, *files.images):
        try:
            there = set(parquet.read_schema(path).names)
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from ValueError
            problems.append(f"{spec.name}: cannot read {path}: {error}. Get it again with: {source.command}")
            continue
        for column in sorted(_wanted(source, files, path) - there):
            way = ""
            if column == IMAGE and source.images:
                way = f" and {source.folder}/{source.images.files} is not there. Get it with: {source.command}"
            problems.append(f"{spec.name}: {path} has no column '{column}'{way}")
    return problems


def _wanted(source: Source, files: Files, path: Path) -> set[str]:
    """The columns that one of a task's files must have."""
    if source.images is None:
        return set(source.columns)
    if path in files.images:
        return {source.images.id, IMAGE}
    return {*source.columns, source.images.key if files.images else IMAGE}


def rows_of(spec: TaskSpec) -> int:
    """How many documents a task has, from the footers of its files; the official number if it has no files."""
    import pyarrow.parquet as parquet

    files = () if spec.data == HUB else locate(spec).questions
    return sum(parquet.read_metadata(path).num_rows for path in files) or spec.source.rows


def data_digest(spec: TaskSpec) -> str:
    """sha256 over the names and contents of the parquet files; for the Hub, the dataset's current commit."""
    from hidrop.models.digest import file_state

    if spec.data == HUB:
        from huggingface_hub import HfApi

        return f"{spec.source.repository}@{HfApi().dataset_info(spec.source.repository).sha}"
    files, digest = locate(spec), hashlib.sha256()
    for path in (*files.questions, *files.images):
        digest.update(f"{path.parent.name}/{path.name}\0{_content(path, file_state(path))}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _content(path: Path, state: tuple[int, ...]) -> str:
    """sha256 of a file. `state` is part of the cache's key, so that a file that was replaced is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
