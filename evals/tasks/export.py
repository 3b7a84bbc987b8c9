"""The tasks as YAML files for lmms-eval's own command line.

    python run.py export-tasks tasks_local
    lmms-eval --model hidrop --model_args pretrained=mini:vanilla,protocol=llava \
        --tasks hidrop_mini_gqa --include_path tasks_local --batch_size 16

Question texts and scores are lmms-eval's in that case. `protocol` still chooses the conversation and the padding.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.tasks.base import LMMS_EVAL
from evals.tasks.build import patterns
from evals.tasks.checks import missing
from evals.tasks.data import HUB, MINI, TaskSpec, locate
from evals.tasks.image_column import rows_without_bytes
from evals.tasks.index import path_of
from evals.tasks.registry import TASKS, get_task
from hidrop.atomic_file import make_folder, write_atomically
from hidrop.errors import UserError


@dataclass(frozen=True)
class Exported:
    """The names of the exported tasks, hidrop_<data's name>_<task>, and why other tasks were skipped."""

    names: list[str]
    skipped: dict[str, str]


def export(folder: Path, data: str = MINI) -> Exported:
    """Write a YAML file into `folder` for each task that lmms-eval can run on this data.

    Raises UserError if there is none, and for the Hub's data.
    """
    import yaml

    if data == HUB:
        raise UserError("data 'hub': lmms-eval has these tasks itself. Use mini, or a folder with parquet files")
    specs = [*(TaskSpec(name, data, LMMS_EVAL) for name in TASKS), *_versions(data)]
    skipped = {_named(spec): why for spec in specs if (why := _obstacle(spec))}
    if len(skipped) == len(specs):
        raise UserError("\n".join(skipped.values()))
    make_folder(folder)
    label, names = MINI if data == MINI else _label(data), []
    for spec in specs:
        if _named(spec) in skipped:
            continue
        paths = patterns(locate(spec).questions)
        config: dict[str, Any] = {
            "include": str(path_of(spec.name)),
            "task": f"hidrop_{label}_{spec.name}{f'_{spec.version}' if spec.version else ''}",
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {spec.source.split: paths}},
        }
        # YAML's dumper cannot write lmms-eval's !function tags, so the task's own part is text.
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True) + spec.task.export_yaml
        write_atomically(folder / f"{config['task']}.yaml", text)
        names.append(config["task"])
    return Exported(names, skipped)


def _versions(data: str) -> list[TaskSpec]:
    """The versions of tasks' data (`Task.versions`) that a folder has."""
    if data == MINI:
        return []
    pairs = ((name, version) for name in TASKS for version in get_task(name).versions)
    return [spec for name, version in pairs if _there(spec := TaskSpec(name, data, LMMS_EVAL, version))]


def _there(spec: TaskSpec) -> bool:
    try:
        return bool(locate(spec).questions)
    except UserError:  # files that cannot be used: `missing` says why
        return True


def _named(spec: TaskSpec) -> str:
    return f"{spec.name} (version {spec.version})" if spec.version else spec.name


def _obstacle(spec: TaskSpec) -> str | None:
    """Why a task cannot be exported."""
    if spec.source.videos:
        return f"{_named(spec)}: lmms-eval looks for its videos in a cache of its own. Run it in a matrix"
    if problems := missing(spec):
        return "\n".join(problems)
    files = locate(spec)
    if renamed := dict(spec.source.renamed):
        return f"{_named(spec)}: lmms-eval does not know its column '{', '.join(renamed)}'. Run it in a matrix"
    if files.images:
        return f"{_named(spec)}: its images are in files of their own, which lmms-eval cannot join. Run it in a matrix"
    if any(name for path in files.questions for _, name in rows_without_bytes(path)):
        return f"{spec.name}: its table names images by paths, which lmms-eval reads from anywhere. Run it in a matrix"
    return None


def _label(data: str) -> str:
    """A folder's name as part of a task's name, which lmms-eval takes for a pattern and splits at commas."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", Path(os.path.expanduser(data)).resolve().name) or "data"
