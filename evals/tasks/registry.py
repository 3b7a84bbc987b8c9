"""The tasks by name. Adding one is a file with its class and a line here."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hidrop.errors import UserError, did_you_mean

if TYPE_CHECKING:
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
    "vizwiz_vqa_val": "evals.tasks.vizwiz:VizWizVal",
    "videomme": "evals.tasks.videomme:VideoMME",
    "mvbench_moving_direction": "evals.tasks.mvbench:MovingDirection",
}


@functools.cache
def get_task(name: str) -> Task:
    """The task called `name`. Raises UserError with a suggestion for an unknown name."""
    if name not in TASKS:
        raise UserError(f"unknown task '{name}'.{did_you_mean(name, TASKS)} Known: {', '.join(TASKS)}")
    module, cls = TASKS[name].split(":")
    return getattr(importlib.import_module(module), cls)()


def known_tasks(names: Iterable[str]) -> list[Task]:
    """The tasks with these names. A result document may have others, from another version; they are left out."""
    return [get_task(name) for name in names if name in TASKS]
