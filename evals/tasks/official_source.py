"""Where the data of a task of lmms-eval is, by its YAML file: in a repository on the Hub, or next to the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evals.tasks.base import Source
from evals.tasks.index import BUILDERS, Entry, data_files, hub_file
from evals.tasks.known_sizes import SIZES
from evals.tasks.tables import ENDINGS, as_one_table

# The endings of data files, the most usual one first.
KINDS = ("parquet", *(ending.removeprefix(".") for ending in ENDINGS))


def source_of(entry: Entry) -> Source:
    """The source of an entry that names a split."""
    config, split = entry.config, entry.split
    assert split is not None
    path, name = str(config["dataset_path"]), config.get("dataset_name")
    name = None if name == "default" else name  # the Hub's name of a repository's only configuration
    rows, megabytes = SIZES.get(entry.name, (None, None))
    revision, folder, named = (config.get("dataset_kwargs") or {}).get("revision"), _last(path), data_files(entry)
    if path in BUILDERS:
        return _next_to_it(entry, split, named, rows)
    if named:
        table = None if all(one.endswith(".parquet") for one in named) else as_one_table
        every, files = tuple(named), named[0]
        found = Source(path, split, folder, files, (), rows, every=every, revision=revision, convert=table)
        return replace(found, megabytes=megabytes)
    first, *others = _globs(name, split)
    return Source(
        repository=path,
        split=split,
        folder=folder,
        files=first,
        columns=(),
        rows=rows,
        others=tuple(others),
        wanted=("README.md", *(f"*{one}*" for one in _names(split)), *([f"*{name}.*"] if name else [])),
        config=name,
        revision=revision,
        megabytes=megabytes,
        convert=as_one_table,
    )


def _next_to_it(entry: Entry, split: str, named: Sequence[str], rows: int | None) -> Source:
    """The source of a file that names its data files: on the Hub, or relative to its own folder."""
    if found := [place for one in named if (place := hub_file(one))]:
        repository, file = found[0]
        table = None if file.endswith(".parquet") else as_one_table
        return Source(repository, split, _last(repository), file, (), rows, convert=table)
    return Source(
        repository=entry.name,
        split=split,
        folder=entry.name,
        files=", ".join(named),
        columns=(),
        rows=None,
        convert=as_one_table,
        paths=_own_files(entry.path.parent, named),
        own=True,
        title=str(entry.path),
    )


def _last(repository: str) -> str:
    return repository.rpartition("/")[2]


def _own_files(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The files that a YAML file names, relative to its folder."""
    found: list[Path] = []
    for name in names:
        path = folder / name
        found += [path] if path.exists() else sorted(path.parent.glob(path.name))
    return tuple(found)


def _globs(config: str | None, split: str) -> list[str]:
    """Where a split may be in a repository, the most usual place first."""
    names = _names(split)
    folders = [f"{config}/", f"data/{config}/", f"data/{config}-", f"{config}-"] if config else []
    bare = [] if config else ["data/", ""]  # another configuration's files may be there
    shards = [f"{folder}{name}-*.parquet" for folder in [*folders, *bare] for name in names]
    single = [f"{folder}{name}.{kind}" for folder in [*folders, *bare] for name in names for kind in KINDS]
    own = [f"{folder}{config}.{kind}" for folder in ("", "*/") for kind in KINDS] if config else []
    return [*shards, *single, *own, *(f"{folder}*.{kind}" for folder in folders[:1] or [""] for kind in KINDS)]


def _names(split: str) -> list[str]:
    """What a split is called in the names of files."""
    return [split, "val"] if split == "validation" else [split]
