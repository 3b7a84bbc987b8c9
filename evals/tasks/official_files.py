"""The digest of lmms-eval's own files of a task: its question text, its decoding settings and how it scores."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from evals.tasks.index import tasks_folder
from evals.tasks.registry import get_task


def official_digest(task: str) -> str | None:
    """sha256, as hex, over the names and contents of the files; None if lmms-eval is not installed. Imports nothing."""
    asked = get_task(task)
    own = asked.official_files
    return _of_lmms_eval(task) if own is None else _digest(own)


@functools.cache
def _of_lmms_eval(task: str) -> str | None:
    root = tasks_folder()
    return None if root is None else _digest(sorted((root / get_task(task).lmms_folder).rglob("*")))


def _digest(paths: Sequence[Path]) -> str:
    """Names are relative to the first file's folder, or to that of all files."""
    files = [path for path in paths if path.is_file() and "__pycache__" not in path.parts]
    folder, found = os.path.commonpath([path.parent for path in files]), hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return found.hexdigest()
