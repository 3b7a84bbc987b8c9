"""lmms-eval's own functions of a task: how an answer is scored, and constants, read without an import.

Some files of lmms-eval import packages for what is not used here (videomme: OpenCV, for subtitles). Where such a
package is not installed, an empty module takes its place while the file is imported.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

UNUSED = ("cv2",)


@contextlib.contextmanager
def without_unused() -> Iterator[None]:
    """A block in which lmms-eval's files can be imported without `UNUSED` packages."""
    lacking = [name for name in UNUSED if name not in sys.modules and importlib.util.find_spec(name) is None]
    sys.modules.update({name: ModuleType(name) for name in lacking})
    try:
        yield
    finally:
        for name in lacking:
            del sys.modules[name]


@functools.cache
def functions(folder: str) -> Any:
    """The module `utils` of a folder of lmms-eval's tasks."""
    with without_unused():
        return importlib.import_module(f"lmms_eval.tasks.{folder}.utils")


@functools.cache
def constant(folder: str, name: str) -> Any:
    """A constant of that module. The file is parsed, because importing lmms-eval takes seconds."""
    spec = importlib.util.find_spec("lmms_eval")
    assert spec is not None and spec.submodule_search_locations
    path = Path(next(iter(spec.submodule_search_locations))) / "tasks" / folder / "utils.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets):
            return ast.literal_eval(node.value)
    raise AttributeError(f"{path} has no constant {name}")
