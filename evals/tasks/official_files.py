"""The digest of lmms-eval's own files of a task: its question text, its decoding settings and how it scores."""

from __future__ import annotations

import functools
import hashlib

from evals.tasks.index import tasks_folder
from evals.tasks.registry import get_task


@functools.cache
def official_digest(task: str) -> str | None:
    """sha256, as hex, over the names and contents of the files; None if lmms-eval is not installed. Imports nothing."""
    root, asked = tasks_folder(), get_task(task)
    if root is None:
        return None
    folder, found = root / asked.lmms_folder, hashlib.sha256()
    for path in asked.official_files or sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return found.hexdigest()
