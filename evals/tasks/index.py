"""lmms-eval's own tasks by name, from a scan of its YAML files that imports nothing.

A YAML file with `task: NAME` is a task, one with `task: [..]` a group of tasks, and `tag: NAME` puts a task into a tag.
`include` works as in lmms-eval: the files are read from the last one to the first, and the file's own keys win. A
`!function module.name` stays a reference (`Function`). The scan takes about a second; lmms-eval's own TaskManager needs
25 seconds, because it imports the modules.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hidrop.errors import UserError, did_you_mean
from hidrop.remembered import recall, remember

Kind = Literal["task", "group", "class"]
# What datasets loads from files that the YAML file names, instead of a repository.
BUILDERS = ("parquet", "json", "csv", "text", "arrow")
# A file of a repository of the Hub, in the two forms that YAML files have.
HUB_FILE = re.compile(
    r"(?:hf://datasets/|https://huggingface\.co/datasets/)(?P<repository>[^/]+/[^/@]+)(?:/resolve/main)?/(?P<file>.+)"
)


@dataclass(frozen=True)
class Function:
    """`!function module.name` in a YAML file; the module is next to the file, or an importable one."""

    folder: Path  # of the file that has the reference
    name: str

    @property
    def file(self) -> Path | None:
        """The module's file, if it is next to the YAML file."""
        path = self.folder / f"{self.name.rpartition('.')[0]}.py"
        return path if path.is_file() else None

    @property
    def attribute(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Entry:
    """One YAML file: a task with its configuration, or a group with the names of its members."""

    name: str
    kind: Kind
    path: Path
    config: Mapping[str, Any]
    members: tuple[str, ...] = ()  # of a group

    @property
    def split(self) -> str | None:
        """The split that is asked: lmms-eval takes the test split, or else the validation split."""
        return self.config.get("test_split") or self.config.get("validation_split")

    @functools.cached_property
    def functions(self) -> tuple[Function, ...]:
        """All references to functions in its configuration."""
        return tuple(functions_of(self.config))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of its metrics, in the order of the file."""
        return tuple(str(one["metric"]) for one in self.config.get("metric_list") or ())


@dataclass(frozen=True)
class Index:
    """All entries by name, and the tasks of each tag."""

    entries: Mapping[str, Entry]
    tags: Mapping[str, tuple[str, ...]]

    @property
    def tasks(self) -> dict[str, Entry]:
        return {name: entry for name, entry in self.entries.items() if entry.kind != "group"}

    def expanded(self, name: str) -> list[str]:
        """The tasks of a name: the task itself, or those of a group or a tag, each once.

        Raises UserError, with a suggestion, for an unknown name.
        """
        if lacking := self.lacking(name):
            raise UserError(f"unknown task '{lacking}'.{did_you_mean(lacking, [*self.entries, *self.tags])}")
        found: dict[str, None] = {}
        self._expand(name, found, ())
        return list(found)

    def lacking(self, name: str, above: tuple[str, ...] = ()) -> str | None:
        """The first name in a group or a tag that has no file, or the name itself; None if all have one."""
        entry = self.entries.get(name)
        if entry is None and name not in self.tags:
            return name
        if entry is not None and entry.kind != "group":
            return None
        members = self.tags[name] if entry is None else entry.members
        found = (self.lacking(member, (*above, name)) for member in members if member not in above)
        return next(filter(None, found), None)

    def _expand(self, name: str, found: dict[str, None], above: tuple[str, ...]) -> None:
        entry = self.entries.get(name)
        if entry is not None and entry.kind != "group":
            found[name] = None
            return
        for member in self.tags[name] if entry is None else entry.members:
            if member not in above:
                self._expand(member, found, (*above, name))


@functools.cache
def index() -> Index:
    """The index of the installed lmms-eval. Empty if it is not installed."""
    folder = tasks_folder()
    if folder is None:
        return Index({}, {})
    entries: dict[str, Entry] = {}
    tags: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        entry = read_entry(path)
        if entry is None:
            continue
        entries.setdefault(entry.name, entry)
        if entry.kind == "task":
            named = entry.config.get("tag") or entry.config.get("group") or ()
            for tag in [named] if isinstance(named, str) else named:
                tags.setdefault(tag, []).append(entry.name)
    return Index(entries, {name: tuple(dict.fromkeys(own)) for name, own in tags.items() if name not in entries})


def path_of(name: str) -> Path:
    """The file of a task of the installed lmms-eval. Raises KeyError for an unknown name.

    The scan takes a second, so what it found is remembered. A file that is gone or has another name starts a new one.
    """
    root = tasks_folder()
    of = {"folder": str(root)}
    known = recall("tasks", of)
    if root is not None and isinstance(known, dict) and isinstance(file := known.get(name), str):
        with contextlib.suppress(UserError):
            if (entry := read_entry(root / file)) is not None and entry.name == name:
                return entry.path
    entries = index().entries
    if root is not None:
        remember("tasks", of, {name: str(entry.path.relative_to(root)) for name, entry in entries.items()})
    return entries[name].path


def tasks_folder() -> Path | None:
    """The folder of lmms-eval's tasks; None if it is not installed. Imports nothing."""
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def read_entry(path: Path) -> Entry | None:
    """The entry of a YAML file; None for one that has none, such as a template. Raises UserError if it is no YAML."""
    config = configuration(path)
    name, group = config.get("task"), config.get("group")
    if "class" in config and isinstance(name, str):
        return Entry(name, "class", path, config)
    if isinstance(name, str):
        return Entry(name, "task", path, config)
    if isinstance(group, str) and isinstance(name, list):
        members = [one if isinstance(one, str) else one.get("task") or one.get("group") for one in name]
        return Entry(group, "group", path, config, tuple(one for one in members if isinstance(one, str)))
    return None


def included(path: Path) -> list[Path]:
    """A YAML file, and those that it includes. Raises UserError for a file that cannot be read."""
    found = [path]
    for there in _includes(path, _parsed(path).get("include")):
        found += [one for one in included(there) if one not in found]
    return found


def _includes(path: Path, named: Any) -> list[Path]:
    """The files that a YAML file includes: relative to the process's folder, as lmms-eval has it, or to the file's."""
    names = [named] if isinstance(named, str) else named or []
    return [Path(name) if Path(name).is_file() else path.parent / name for name in names]


def configuration(path: Path) -> dict[str, Any]:
    """A file's configuration with those that it includes. Raises UserError for a file that cannot be read."""
    own = dict(_parsed(path))
    found: dict[str, Any] = {}
    for there in reversed(_includes(path, own.pop("include", None))):
        if not there.is_file():
            raise UserError(f"{path}: include: {there} is not there")
        found |= configuration(there)
    return {**found, **own}


@functools.lru_cache(maxsize=4096)
def _parsed(path: Path) -> Mapping[str, Any]:
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the C loader is optional
        """Reads `!function` as a reference, and any other tag as nothing."""

    def function(loader: Any, node: Any) -> Function:
        return Function(path.parent, loader.construct_scalar(node))

    Loader.add_constructor("!function", function)
    Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
    try:
        found = yaml.load(path.read_bytes(), Loader)
    except FileNotFoundError:
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*.y*ml")])
        raise UserError(f"{path}: no such file.{near}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder. Name the YAML file in it") from None
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    return found if isinstance(found, dict) else {}


def data_files(entry: Entry) -> list[str]:
    """The files that a task names for its split: paths, patterns or URLs; in its repository, without `BUILDERS`."""
    named = (entry.config.get("dataset_kwargs") or {}).get("data_files")
    named = named.get(entry.split) if isinstance(named, Mapping) else named
    return [named] if isinstance(named, str) else [str(one) for one in named or ()]


def hub_file(name: str) -> tuple[str, str] | None:
    """The repository and the file in it that a name of `data_files` stands for; None for any other name."""
    found = HUB_FILE.fullmatch(name)
    return (found["repository"], found["file"]) if found else None


def functions_of(value: Any) -> Iterator[Function]:
    """All references in a configuration's value."""
    if isinstance(value, Function):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from functions_of(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from functions_of(one)
