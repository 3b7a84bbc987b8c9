"""The digest of lmms-eval's own files of a task: its question text, its decoding settings and how it scores."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

from evals.tasks.registry import get_task


@functools.cache
def official_digest(task: str) -> str | None:
    """sha256, as hex, over the names and contents of the files; None if lmms-eval is not installed. Imports nothing."""
    spec = importlib.util.find_spec("lmms_eval")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "tasks" / get_task(task).lmms_folder
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return found.hexdigest()
