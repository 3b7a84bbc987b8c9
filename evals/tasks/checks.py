"""Everything that is wrong with a task's data, found before a run: missing files, shards, columns, rows and images.

`missing` lists what stops a run. `remarks` lists what a reader should know, such as another number of rows than the
official files have.
"""

from __future__ import annotations

import functools
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evals.tasks import hub, image_column, shards, video_checks
from evals.tasks.base import IMAGE, Doc, Source, Task
from evals.tasks.data import (
    HUB,
    MINI,
    Files,
    TaskSpec,
    all_rows,
    counted_rows,
    download,
    locate,
    root_of,
    rows_of,
    way_out,
)
from hidrop.errors import CannotWrite, UserError, in_a_line, shortened
from hidrop.images import ImageError, inside
from hidrop.regular_files import file_state, local_path
from hidrop.remembered import recall, remember, settled

ROWS = 4096  # that are read at once


def missing(spec: TaskSpec, *, prepared: bool = False) -> list[str]:
    """What keeps a task from running, each with its place and the command that provides it; empty if nothing does.

    Reads all files, about a second for a gigabyte; a run reads them for its digest anyway. The Hub's data need not be
    in its cache yet: with the network, the run downloads what is missing. After that (`evals.tasks.data.prepare`) it
    is `prepared` and has to be complete.
    """
    if spec.data == HUB and spec.source.videos:
        way = download(replace(spec, data="data"))
        return [f"{spec.name}: data: hub cannot be used, as videos have to be unpacked. Name a folder, after: {way}"]
    if spec.data == HUB and spec.source.repository.startswith((".", "/", "~")):
        folder = spec.source.repository
        return [f"{spec.name}: dataset_path '{folder}' is a folder: give it as tasks.{spec.name}.data in the matrix"]
    try:
        files = locate(spec)
    except CannotWrite as error:  # the cache folder, for question files that are converted
        return [f"{spec.name}: {error}"]
    except UserError as error:
        return [f"{spec.name}: {error}. {way_out(spec, 'Get it again')}"]
    if (
        spec.data == HUB
        and not spec.source.own
        and not prepared
        and not hub.offline()
        and (not files.questions or [*shards.problems(spec.source, files)])
    ):
        return []
    if not files.questions:
        return [_absent(spec)]
    found = list(_problems(spec, files, _state(files)))
    # Each time, because the state that the others depend on is that of the tables.
    return found or [f"{spec.name}: {line}" for line in video_checks.problems(spec, files)]


def remarks(spec: TaskSpec) -> list[str]:
    """What a reader of the numbers should know about data that can be used."""
    if spec.data == MINI:
        return []
    if not locate(spec).questions:
        return [f"{spec.name}: will be downloaded with: {download(spec)}"] if spec.data == HUB else []
    found, official = rows_of(spec), spec.source.rows
    whole = f"version {spec.version}" if spec.version else f"the official {spec.source.split}"
    told = []
    if spec.source.own and spec.data != HUB:
        told.append(f"{spec.name}: data '{shortened(spec.data)}' is not used: {spec.source.title} names its files")
    if official is not None and found != official:
        told.append(f"{spec.name}: {found:,} rows, but {whole} has {official:,}")
    if rest := all_rows(spec) - found:
        told.append(f"{spec.name}: {rest:,} more rows of the files are not asked: {spec.task.not_asked}")
    if text := _rows_of_text(spec) if spec.task.text_only else 0:
        told.append(f"{spec.name}: {text:,} of {found:,} rows have no image and are asked as text")
    return told


def _rows_of_text(spec: TaskSpec) -> int:
    """The number of rows without an image."""
    rows = (name for path in locate(spec).with_images for _, name in image_column.rows_without_bytes(path))
    return sum(name is None for name in rows)


def _absent(spec: TaskSpec) -> str:
    """Why no file was found."""
    source = spec.source
    if source.own:
        return (
            f"{spec.name}: {source.title}: dataset_kwargs.data_files names no file for the split '{source.split}' that "
            f"is there ({source.files or 'it names none'}). Its paths begin at the folder of the YAML file"
        )
    if spec.data == HUB:
        place = f"not in the Hub's cache ({hub.cache()})"
        place += ", and HF_HUB_OFFLINE forbids to download it" if hub.offline() else ""
        return f"{spec.name}: {source.repository} is {place}. {way_out(spec)}"
    root = root_of(spec)
    why = f". {there}" if (there := hub.explained(root, source.repository)) else ""
    why = f". It is a file: name its folder{why}" if os.path.isfile(root) else why
    why = why if os.path.lexists(root) else f". There is no such folder{why}"
    try:
        local_path(spec.data, f"{spec.name}.data")
    except UserError as error:  # a name that no folder can have
        why = f". {error}"
    looked = f"looked for {source.folder}/{source.files}"
    return f"{spec.name}: no data in '{shortened(spec.data)}' ({looked}){why}. {way_out(spec)}"


def _state(files: Files) -> tuple[Any, ...]:
    """Changes when a file does."""
    states: list[tuple[int, ...] | None] = []
    for path in (*files.questions, *files.images):
        try:
            states.append(file_state(path))
        except OSError:
            states.append(None)
    return tuple(states)


@functools.lru_cache(maxsize=64)  # every cell of a matrix asks
def _problems(spec: TaskSpec, files: Files, state: tuple[Any, ...]) -> tuple[str, ...]:
    """The problems of files that were found; of each kind only if the kinds before it have none.

    Reading all files takes a second for a gigabyte, so it is remembered that a task's own files have none.
    """
    # A task without a class here reads what its YAML file says, and a table may name images in files of their own.
    lasting = not spec.task.any_columns and None not in state and all(map(settled, state))
    of = {"spec": asdict(spec), "files": repr(files), "states": state}
    if lasting and recall("data", of) is True:
        return ()
    found = _found(spec, files)
    if lasting and not found and not any(any(image_column.rows_without_bytes(path)) for path in files.with_images):
        remember("data", of, True)
    return found


def _found(spec: TaskSpec, files: Files) -> tuple[str, ...]:
    kinds: tuple[Callable[[TaskSpec, Files], Iterator[str]], ...] = (
        _incomplete,
        _unread,
        _columns,
        _empty,
        _rows,
        _keys,
    )
    for kind in kinds:
        if found := tuple(f"{spec.name}: {line}" for line in kind(spec, files)):
            return found
    return ()


# ---- files ---------------------------------------------------------------------------------------------------------


def _incomplete(spec: TaskSpec, files: Files) -> Iterator[str]:
    for line in shards.problems(spec.source, files):
        yield f"{line}. {way_out(spec)}"


def _unread(spec: TaskSpec, files: Files) -> Iterator[str]:
    """Files that are not parquet files, and files with a page that cannot be read: every page is read once."""
    import pyarrow
    import pyarrow.parquet as parquet

    for path in (*files.questions, *files.images):
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ValueError("not a regular file")
            with parquet.ParquetFile(path, page_checksum_verification=True) as file:
                read = 0
                for batch in file.iter_batches(batch_size=image_column.ROWS):
                    batch.validate(full=True)  # text that is not UTF-8, too
                    read += batch.num_rows
                if read != file.metadata.num_rows:
                    raise ValueError(f"{read:,} of {file.metadata.num_rows:,} rows can be read")
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            yield f"cannot read {path}: {in_a_line(error).rstrip('.')}. {way_out(spec, 'Get it again')}"


def _columns(spec: TaskSpec, files: Files) -> Iterator[str]:
    """Columns that are not there, and columns of images that hold something else."""
    import pyarrow.parquet as parquet

    source = spec.source
    for path in (*files.questions, *files.images):
        there = set(parquet.read_schema(path).names)
        for column in sorted(_wanted(source, files, path) - there):
            way = ""
            if column == IMAGE and source.images:
                way = f" and {source.folder}/{source.images.files} is not there. {way_out(spec)}"
            yield f"{_shown(spec, files, path)} has no column '{column}'{way}"
        if path in files.with_images and (held := image_column.holds(path, lists=source.listed)):
            yield f"{path}: column '{IMAGE}' holds {held}, but no images: bytes, or paths inside the data's folder"


def _wanted(source: Source, files: Files, path: Path) -> set[str]:
    """The columns that one of a task's files must have."""
    if source.images is None:
        return set(source.columns)
    if path in files.images:
        return {source.images.id, IMAGE}
    return {*source.columns, source.images.key if files.images else IMAGE}


def _empty(spec: TaskSpec, files: Files) -> Iterator[str]:
    import pyarrow.parquet as parquet

    for path in (*files.questions, *files.images):
        if not parquet.read_metadata(path).num_rows:
            yield f"{_shown(spec, files, path)}: no rows. {way_out(spec, 'Get it again')}"
    if not counted_rows(spec) and all_rows(spec):
        way = way_out(spec, f"Get the official {spec.source.split}")
        yield f"{files.questions[0].parent}: no row to ask: {spec.task.not_asked}. {way}"


# ---- rows ----------------------------------------------------------------------------------------------------------


def _rows(spec: TaskSpec, files: Files) -> Iterator[str]:
    """Rows that cannot be asked or scored, and images that cannot be there.

    In files of their own, a document that is not asked needs none.
    """
    task, source = spec.task, spec.source
    images, renamed = _image_names(source, files), dict(source.renamed)
    key = source.images.key if source.images else ""
    for path in files.questions:
        found: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for row, doc in enumerate(_documents(path, _wanted(source, files, path) - {IMAGE})):
            if problem := task.row_problem({renamed.get(name, name): value for name, value in doc.items()}):
                found[problem[0]].append((row, problem[1]))
            if images is not None and _is_asked(task, doc) and doc[key] not in images:
                found[key].append((row, f"no image '{shortened(str(doc[key]))}' in {source.globs[-1]}"))
        yield from _told(spec, files, path, found)
    for path in files.with_images:
        yield from _told(spec, files, path, {IMAGE: list(_images(files, path, text_only=task.text_only))})


def _is_asked(task: Task, doc: Doc) -> bool:
    return task.order_column not in doc or task.order(doc) is not None


def _keys(spec: TaskSpec, files: Files) -> Iterator[str]:
    """Documents that are there twice, and groups that are not whole."""
    task, renamed, keys = spec.task, dict(spec.source.renamed), spec.task.key_columns
    if not keys and task.group_column is None:
        return
    first: dict[tuple[Any, ...], tuple[Path, int]] = {}
    groups: dict[Any, list[tuple[Path, int, Doc]]] = defaultdict(list)
    found: dict[Path, dict[str, list[tuple[int, str]]]] = {path: defaultdict(list) for path in files.questions}
    for path in files.questions:
        for row, doc in enumerate(_documents(path, _key_columns(spec, files, path))):
            doc = {renamed.get(name, name): value for name, value in doc.items()}
            key = tuple(doc.get(name) for name in keys)
            before, place = first.setdefault(key, (path, row))
            if keys and None not in key and (before, place) != (path, row):
                of = "" if before == path else f" of {before.name}"
                others = "".join(f" in {name} '{shortened(str(doc[name]))}'" for name in keys[:-1])
                reason = f"'{shortened(str(key[-1]))}'{others} is the same as in row {place}{of}"
                found[path][keys[-1]].append((row, reason))
            if task.group_column is not None:
                groups[task.group(doc)].append((path, row, doc))
    for rows in groups.values():
        if problem := task.group_problem([doc for _, _, doc in rows]):
            found[rows[0][0]][problem[0]].append((rows[0][1], problem[1]))
    for path in files.questions:
        yield from _told(spec, files, path, found[path])


def _key_columns(spec: TaskSpec, files: Files, path: Path) -> set[str]:
    """The columns that name a document, if all are there; with groups, all columns but the images."""
    import pyarrow.parquet as parquet

    there, renamed = parquet.read_schema(path).names, dict(spec.source.renamed)
    keys = {name for name in there if renamed.get(name, name) in spec.task.key_columns}
    keys = keys if len(keys) == len(spec.task.key_columns) else set()
    return keys if spec.task.group_column is None else keys | _wanted(spec.source, files, path) - {IMAGE}


def _shown(spec: TaskSpec, files: Files, path: Path) -> str:
    """A file's name in messages: for a converted one, the names of what it was made from."""
    return str(files.start / spec.source.files) if files.originals and path in files.questions else str(path)


def _told(spec: TaskSpec, files: Files, path: Path, found: Mapping[str, list[tuple[int, str]]]) -> Iterator[str]:
    """One line for each column: its first row, and how many more there are."""
    import pyarrow.parquet as parquet

    total, place = parquet.read_metadata(path).num_rows, _shown(spec, files, path)
    for column, rows in found.items():
        if not rows:
            continue
        row, reason = rows[0]
        way = way_out(spec, f"Get the official {spec.source.split}")
        if len(rows) == total > 1:
            cannot = "so this split cannot be used" if column == IMAGE else "so this split cannot be scored"
            yield f"{place}: column '{column}': all {total:,} rows: {reason}, {cannot}. {way}"
        else:
            more = f", and {len(rows) - 1:,} more rows" if len(rows) > 1 else ""
            yield f"{place}: row {row} (from 0), column '{column}': {reason}{more}. Remove the rows. {way}"


def _documents(path: Path, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=ROWS, columns=sorted(columns)):
            yield from batch.to_pylist()


def _image_names(source: Source, files: Files) -> set[Any] | None:
    """The names of the images in files of their own; None if there are no such files."""
    if not source.images or not files.images:
        return None
    key = source.images.id
    return {doc[key] for path in files.images for doc in _documents(path, [key])}


def _images(files: Files, path: Path, *, text_only: bool) -> Iterator[tuple[int, str]]:
    """(row, reason) of each image that is neither bytes nor a file inside the data's folder.

    text_only: rows without an image are good (`Task.text_only`).
    """
    yield from ((row, "no image (0 bytes)") for row in image_column.rows_of_no_bytes(path))
    for row, name in image_column.rows_without_bytes(path):
        if name is None:
            if not text_only:
                yield row, "no image"
            continue
        try:
            inside(files.root, name, files.start)
        except ImageError as error:
            yield row, str(error)
