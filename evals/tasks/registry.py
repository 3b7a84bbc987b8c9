"""The tasks by name. Adding a first-class one is a file with its class and a line here.

Every other task of lmms-eval has its name there, and a matrix can add a user's YAML file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from hidrop.errors import UserError, did_you_mean
from hidrop.program import program
from hidrop.regular_files import local_path

if TYPE_CHECKING:
    from pathlib import Path

    from evals.tasks.base import Task

# name -> "module:Class", imported on first use
TASKS: dict[str, str] = {
    "gqa": "evals.tasks.gqa:GQA",
    "mmbench_en_dev": "evals.tasks.mmbench:MMBench",
    "mmbench_cn_dev": "evals.tasks.mmbench:MMBenchCN",
    "textvqa_val": "evals.tasks.textvqa:TextVQA",
    "pope": "evals.tasks.pope:POPE",
    "mme": "evals.tasks.mme:MME",
    "seedbench": "evals.tasks.seedbench:SEEDImage",
    "mmstar": "evals.tasks.mmstar:MMStar",
    "vqav2_val": "evals.tasks.vqav2:VQAv2Val",
    "vqav2_test": "evals.tasks.vqav2:VQAv2Test",
    "vizwiz_vqa_val": "evals.tasks.vizwiz:VizWizVal",
    "vizwiz_vqa_test": "evals.tasks.vizwiz:VizWizTest",
    "scienceqa_img": "evals.tasks.scienceqa:ScienceQA",
    "videomme": "evals.tasks.videomme:VideoMME",
    "mvbench_moving_direction": "evals.tasks.mvbench:MovingDirection",
}


# The module of all other tasks, which needs this one.
GENERIC = "evals.tasks.generic"

# A user's own tasks, by name: see `add`.
_own: dict[str, Task] = {}


def get_task(name: str) -> Task:
    """The task called `name`: one of `TASKS`, one of lmms-eval's, or one that a matrix added.

    Raises UserError with a suggestion for an unknown name.
    """
    return _own[name] if name in _own else _known(name)


@functools.cache
def _known(name: str) -> Task:
    if name in TASKS:
        module, cls = TASKS[name].split(":")
        return getattr(importlib.import_module(module), cls)()
    from evals.tasks.index import index

    tasks = index().tasks
    if name in tasks:
        return importlib.import_module(GENERIC).OfficialTask(tasks[name])
    raise UserError(f"unknown task '{name}'.{suggestion(name)}")


def add(name: str, path: Path) -> Task:
    """Add the task of a user's YAML file under a name of hers, in the place of an earlier one.

    Raises UserError for a name of lmms-eval's.
    """
    from evals.tasks.index import index

    if name in TASKS or name in index().entries:
        raise UserError(f"{path}: lmms-eval has a task called {name}. Give yours another name")
    made = importlib.import_module(GENERIC).of_yaml(path, name)
    _own[name] = made
    return made


def add_files(files: Mapping[str, str]) -> None:
    """Add the user's own tasks that a result document names, by name, so that their samples can be compared.

    Nobody in this process chose the files: the document may be somebody else's. So none of their functions runs
    (`Task.trusted`), unless the task is known from a matrix. A file that is not there, or not a task any more, is left
    out: its task then stays unknown.
    """
    for name, file in files.items():
        with contextlib.suppress(UserError):
            if name not in _own and (path := local_path(file, name)).is_file():
                add(name, path).trusted = False


def members(name: str) -> list[str]:
    """The tasks of a name: itself, or those of one of lmms-eval's groups or tags. Raises UserError like `get_task`."""
    if name in TASKS or name in _own:
        return [name]
    from evals.tasks.index import index

    found = index()
    if name not in found.entries and name not in found.tags:
        raise UserError(f"unknown task.{suggestion(name)}")
    return found.expanded(name)


def suggestion(name: str) -> str:
    """The nearest known name, or else where the names are listed, to append to a sentence."""
    from evals.tasks.index import index

    found = index()
    near = did_you_mean(name, TASKS) or did_you_mean(name, [*found.entries, *found.tags])
    return near or f" `{program()} tasks --grep WORD` lists all names"


def known(name: str) -> bool:
    """Whether there is a task called `name`, in this installation."""
    if name in TASKS or name in _own:
        return True
    from evals.tasks.index import index

    return name in index().tasks


def known_tasks(names: Iterable[str]) -> list[Task]:
    """The tasks with these names. A result document may have others, from another version; they are left out."""
    return [get_task(name) for name in names if known(name)]
