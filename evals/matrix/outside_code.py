"""Which files' code a matrix or a recipe runs besides hidrop's and lmms-eval's own, told before it is imported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hidrop import strict_yaml
from hidrop.methods import METHODS
from hidrop.outside_methods import code_files, is_reference, offered
from hidrop.stacks.members import part_of


def outside_code(path: Path) -> dict[str, list[str]]:
    """By its place in a matrix or a recipe, the files of each method and task that is not part of hidrop or lmms-eval.

    Modules that they find by a name made at run time are not among them. Raises UserError for a file that is not YAML.
    """
    data = strict_yaml.read(path, path.name)
    found = {}
    for place, method in _methods(data):
        files = code_files(method)
        found[f"{place} ({method})"] = [_shown(file) for file in files] or ["not found"]
    for place, file in _own_tasks(data):
        found[f"{place} ({file})"] = [_shown(one) for one in sorted(Path(file).parent.glob("*.py"))] or ["no code"]
    return found


def text(found: Mapping[str, list[str]]) -> str:
    """The lines that say so."""
    lines = (f"  {place}: {', '.join(files)}" for place, files in found.items())
    return "\n".join(["This file runs code that is not part of hidrop:", *lines])


def _shown(file: Path) -> str:
    """A file by its path from here, where it is below this folder."""
    file = file.resolve()
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)


def _methods(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The names of methods outside of hidrop, with their places in the file."""
    entries = [(f"methods.{key}", entry, key) for key, entry in _mapping(data.get("methods")).items()]
    entries.append(("method", data.get("method"), None))  # of a recipe
    models = _mapping(data.get("models")).items()
    entries += [(f"models.{key}.trained_with", _mapping(one).get("trained_with"), None) for key, one in models]
    for place, entry, key in entries:
        for name in _names(_mapping(entry), key):
            if isinstance(name, str) and name not in METHODS and (is_reference(name) or name in offered()):
                yield place, name


def _names(entry: Mapping[str, Any], key: Any) -> Iterator[Any]:
    """The method of an entry, and those of a stack's members."""
    yield entry.get("name", key)
    stack = entry.get("stack")
    for member in stack if isinstance(stack, list) else ():
        with contextlib.suppress(ValueError):  # what no member can be runs no code
            yield part_of(0, member).method


def _own_tasks(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, entry in _mapping(data.get("tasks")).items():
        file = _mapping(entry).get("yaml")
        if isinstance(file, str):
            yield f"tasks.{key}", file


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}
