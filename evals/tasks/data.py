"""Where a task's data is: the embedded benchmark, a local folder, or the Hub.

A local folder holds the parquet files of the Hub's dataset repositories as they are, so that one `hf download` makes
it. For POPE `data: data` and `data: data/pope` both find data/pope/data/test-*.parquet. The embedded benchmark's own
layout (pope/test.parquet; GQA's file there holds its images) is found the same way, and so are the Hub's cache, a
repository's folder in it, and a snapshot. `evals.tasks.checks` says what is missing or wrong. A task can have several
versions of its data, each with a source of its own (`Task.versions`).
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.tasks import hub, image_column, video_files
from evals.tasks.base import LLAVA, Source, Task
from evals.tasks.registry import get_task
from hidrop.errors import UserError, did_you_mean
from hidrop.file_digests import file_digest
from hidrop.images import ImageError, inside
from hidrop.regular_files import Unreadable, file_state, opened

MINI, HUB = "mini", "hub"
LARGE = 1 << 20  # bytes of a file whose digest is worth remembering; there may be thousands of smaller ones


@dataclass(frozen=True)
class TaskSpec:
    """One task, its data ("mini", "hub", or a folder; one of the task's `versions`) and the protocol it is asked under.

    metric: the one that gives the value, of a task that has several.

    Raises UserError for an unknown task, for one that cannot be asked here, for a protocol or a metric that the task
    does not have, and for a version of the data that does not exist.
    """

    name: str
    data: str = MINI
    protocol: str = LLAVA
    version: str | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        if why := self.task.obstacle:
            raise UserError(f"{self.name}: {why}")
        try:
            self.task.check_metric(self.metric)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from None
        known = self.task.protocols
        if self.protocol not in known:
            raise UserError(
                f"{self.name}: cannot be asked under protocol '{self.protocol}'. Use {' or '.join(known)}, for the "
                f"whole matrix or as tasks.{self.name}.protocol"
            )
        if problem := version_problem(self.name, self.data, self.version):
            raise UserError(f"{self.name}: version: {problem}")

    @property
    def task(self) -> Task:
        return get_task(self.name)

    @property
    def source(self) -> Source:
        return self.task.source if self.version is None else self.task.versions[self.version]


def version_problem(name: str, data: str, version: str | None) -> str | None:
    """Why a task's data does not exist in a version, in words; None if it does, and for the usual version (None)."""
    if version is None:
        return None
    known = get_task(name).versions
    if version not in known:
        there = f"Known: {', '.join(known)}; without it" if known else "There is only the usual one"
        return f"unknown version '{version}'.{did_you_mean(version, known)} {there}: {get_task(name).source.described}"
    if data == MINI:
        return "the embedded data has no versions; remove it, or give a folder as data"
    if data == HUB and known[version].convert:
        way = _into(known[version], Path("data") / known[version].folder)
        return f"'{version}' needs files that are not on the Hub. Give the folder data as data, after: {way}"
    return None


@dataclass(frozen=True)
class Files:
    """The parquet files of a task; `images` only if they are not in the same files as the questions (GQA)."""

    questions: tuple[Path, ...]
    images: tuple[Path, ...] = ()
    # Images that the files name by a path are read from here only. Relative paths begin at `start`, or here.
    root: Path = Path()
    start: Path = Path()
    # What the questions were converted from (`Source.convert`), if they are in files of another kind.
    originals: tuple[Path, ...] = ()

    # Whether no column of images is declared: documents have videos, or images in columns of any name.
    undeclared: bool = False

    @property
    def with_images(self) -> tuple[Path, ...]:
        """The files that have the column of the images."""
        return () if self.undeclared else self.images or self.questions


def locate(spec: TaskSpec) -> Files:
    """The files of a spec. The embedded benchmark is built on first use; of the Hub's data, only the cache is read.

    No files if they are not there; `evals.tasks.checks.missing` says why in words. Raises UserError for question files
    that cannot be converted to parquet.
    """
    source, undeclared = spec.source, spec.task.filmed or spec.task.any_columns
    if source.paths:
        place = source.paths[0].parent
        tables = all(path.suffix == ".parquet" for path in source.paths)
        files = source.paths if tables or source.convert is None else (source.convert(source.paths),)
        return Files(files, (), place, place, () if tables else source.paths, undeclared=undeclared)
    if source.own:
        return Files(())
    for place, root in _places(spec):
        if not os.path.isdir(place):  # unlike Path's methods, False for names that no file can have
            continue
        if questions := _questions(source, place):
            images = tuple(sorted(place.glob(source.images.files))) if source.images else ()
            if source.convert is None or (source.others and all(path.suffix == ".parquet" for path in questions)):
                return Files(questions, images, root, place, undeclared=undeclared)
            return Files((source.convert(questions),), images, root, place, originals=questions, undeclared=undeclared)
        if source.convert is None and os.path.exists(place / source.plain):
            return Files((place / source.plain,), (), root, place, undeclared=undeclared)
    return Files(())


def _questions(source: Source, place: Path) -> tuple[Path, ...]:
    """The question files in a folder: those that its README names, or else those of the first glob with a match.

    Of globs that are read together (`Source.every`), none if one has no match.
    """
    if source.every:
        each = [sorted(place.glob(pattern)) for pattern in source.every]
        return tuple(dict.fromkeys(path for paths in each for path in paths)) if all(each) else ()
    if source.others and (declared := hub.declared(place, source.config, source.split)):
        return declared
    for pattern in (source.files, *source.others):
        found = tuple(sorted(place.glob(pattern)))
        any_name = pattern.rpartition("/")[2].startswith("*.")
        if found and (not any_name or (_only_file(source, place, found))):
            return found
    return ()


def _only_file(source: Source, place: Path, found: Sequence[Path]) -> bool:
    """Whether files of any name are a repository's only one: in its own folder, and not called like another split."""
    own = place.name in (source.folder, _last_part(source.repository)) or place.parent.name == "snapshots"
    return own and len(found) == 1 and not hub.other_split(found[0], source.split)


def _places(spec: TaskSpec) -> Iterator[tuple[Path, Path]]:
    """Folders that may hold a spec's files, each with the folder that no path in the files may leave."""
    repository = spec.source.repository
    if spec.data == HUB:
        if found := hub.snapshot(hub.cache() / hub.folder_name(repository), spec.source.revision):
            yield found, hub.bounds_of(found)
        return
    root = root_of(spec)
    for name in (spec.source.folder, _last_part(repository)):
        yield root / name, root
    yield root, hub.bounds_of(root)
    if found := hub.snapshot_below(root, repository):
        yield found, hub.bounds_of(found)


def root_of(spec: TaskSpec) -> Path:
    """The folder that a spec's data names."""
    if spec.data == MINI:
        from hidrop.mini import ensure

        return Path(ensure())
    return Path(os.path.expanduser(spec.data))  # unlike Path.expanduser, no error for an unknown user


def prepare(spec: TaskSpec) -> None:
    """Download the files of a spec whose data is the Hub's; see `hub.fetch`."""
    if spec.data == HUB and not spec.source.own:
        hub.fetch(spec.source)


def download(spec: TaskSpec) -> str:
    """The command that downloads a spec's official files to where they are looked for, with their size.

    It also says how to get files that are not on the Hub. The Hub's cache has no place for these.
    """
    source = spec.source
    if source.paths:
        return f"a copy of the file: {source.title} names it under data_files"
    if spec.data == HUB:
        return hub.download_command(source)
    root = root_of(spec)
    if not source.elsewhere and (root.name.startswith(hub.PREFIX) or hub.is_cache(root)):
        return hub.download_command(
            source, "--cache-dir", str(root.parent if root.name.startswith(hub.PREFIX) else root)
        )
    own = root.absolute().name in (source.folder, _last_part(source.repository))
    return _into(source, root if own else root / source.folder)


def way_out(spec: TaskSpec, what: str = "Get it") -> str:
    """The last sentence of a message about a task's files: the command that gets them, or who names them."""
    if spec.source.own:
        return f"Correct it, or name another file in {spec.source.title} (dataset_kwargs.data_files)"
    return f"{what} with: {download(spec)}"


def _last_part(repository: str) -> str:
    """A repository's name without its owner. Old ones of the Hub have none."""
    return repository.rpartition("/")[2]


def _into(source: Source, folder: Path) -> str:
    """The command that downloads official files into a folder, and how to get those that are not on the Hub."""
    command = hub.download_command(source, "--local-dir", str(folder))
    return f"{command}, and {source.elsewhere.format(folder=folder)}" if source.elsewhere else command


def rows_of(spec: TaskSpec) -> int:
    """How many documents a task asks, from its files; the official number, or 0, if it has no files."""
    return counted_rows(spec) or spec.source.rows or 0


def counted_rows(spec: TaskSpec) -> int:
    """How many documents of a task's files are asked; 0 without files."""
    task, files = spec.task, [path for path in locate(spec).questions if path.is_file()]
    if task.order_column is None:
        return all_rows(spec)
    return sum(_asked_rows(task, task.order_column, path, file_state(path)) for path in files)


def all_rows(spec: TaskSpec) -> int:
    """How many rows a task's files have, from their footers; 0 without files."""
    return sum(_rows(path, file_state(path)) for path in locate(spec).questions if path.is_file())


@functools.lru_cache(maxsize=1 << 14)  # every cell of a matrix asks; `state` changes when the file does
def _rows(path: Path, state: tuple[int, ...]) -> int:
    import pyarrow.parquet as parquet

    return parquet.read_metadata(path).num_rows


@functools.lru_cache(maxsize=1 << 14)
def _asked_rows(task: Task, column: str, path: Path, state: tuple[int, ...]) -> int:
    """How many rows of a file have an order (`Task.order`); all of them in a file whose column cannot be read."""
    import pyarrow.parquet as parquet

    total = parquet.read_metadata(path).num_rows
    try:
        values = parquet.read_table(path, columns=[column]).column(0).to_pylist()
    except (OSError, ValueError, IndexError):  # `checks` names what is wrong
        return total
    return sum(task.order({column: value}) is not None for value in values)


def data_digest(spec: TaskSpec) -> str:
    """sha256 over the names and contents of a spec's files, and of the image files that they name by a path.

    Of videos, it reads names, sizes and beginnings: see `video_files.digests`.

    So the Hub's data and the same files in a folder are the same data. Raises UserError if there are no files.
    """
    files, digest = locate(spec), hashlib.sha256()
    if not files.questions:
        raise UserError(f"{spec.name}: no data in '{spec.data}'. {way_out(spec)}")
    for path in (*(files.originals or files.questions), *files.images):
        digest.update(f"{path.parent.name}/{path.name}\0{content_of(path)}\n".encode())
    for path in files.with_images:
        for _, name in image_column.rows_without_bytes(path):
            digest.update(f"{name}\0{_image_digest(files, name)}\n".encode())
    if files.undeclared:
        names = dict.fromkeys(name for path in files.questions for name in image_column.named_files(path))
        for name in names:
            digest.update(f"{name}\0{_image_digest(files, name)}\n".encode())
    if spec.source.videos:
        for line in video_files.digests(spec.source, files):
            digest.update(line.encode())
    return digest.hexdigest()


def _image_digest(files: Files, name: str | None) -> str:
    if name is None:
        return "none"
    try:
        return content_of(inside(files.root, name, files.start))
    except (ImageError, UserError, OSError):
        return "unreadable"


def content_of(path: Path) -> str:
    """sha256 of a file's content, read again when the file changed. (Its time of modification can be set by anybody.)

    Raises UserError for a file that cannot be read, and for a pipe or a device, which could wait forever.
    """
    try:
        return _content(path, file_state(path))
    except Unreadable as reason:
        raise UserError(f"{path}: cannot be read: {reason}") from None


@functools.lru_cache(maxsize=1 << 14)
def _content(path: Path, state: tuple[int, ...]) -> str:
    """sha256 of a file. `state` is part of the cache's key, so that a file that was replaced is read again."""
    if state[0] >= LARGE:
        return file_digest(path)
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
