"""lmms-eval's own configuration of a task, with its functions resolved: the one place that imports their modules."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.tasks.index import path_of
from evals.tasks.official_functions import without_unused
from hidrop.errors import UserError, in_a_line

if TYPE_CHECKING:
    from evals.tasks.base import Task

HOME = "HF_HOME"
_lock = threading.RLock()


@functools.lru_cache(maxsize=256)
def _loaded(path: Path, name: str, home: str | None) -> dict[str, Any]:
    from lmms_eval.utils import load_yaml_config

    try:
        with without_unused(), home_of_data(home):
            found = load_yaml_config(yaml_path=str(path), mode="full")
    except (Exception, SystemExit) as error:
        raise UserError(f"{name}: {path} cannot be loaded: {in_a_line(error)}") from error
    return {**found, "task": name}


def official(task: Task, home: str | None = None) -> dict[str, Any]:
    """The configuration of a task. The caller may change it.

    home: the folder in which the task's functions look for videos (see `home_of_data`). Raises UserError for a file
    whose functions cannot be imported.
    """
    return copy.deepcopy(_loaded(task.yaml_file or path_of(task.name), task.name, home))


@contextlib.contextmanager
def home_of_data(folder: str | None) -> Iterator[None]:
    """A block in which lmms-eval's functions take `folder` for the home of the Hub's files; None changes nothing.

    Tasks of videos read the variable when they are imported or when they name a video. It is the process's, so that
    only one thread at a time is in such a block.
    """
    if folder is None:
        yield
        return
    with _lock:
        before = os.environ.get(HOME)
        os.environ[HOME] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ[HOME]
            else:
                os.environ[HOME] = before
