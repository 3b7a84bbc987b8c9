"""The tasks as YAML files for lmms-eval's own command line.

    python run.py export-tasks tasks_local
    lmms-eval --model hidrop --model_args pretrained=mini:vanilla,protocol=llava \
        --tasks hidrop_mini_gqa --include_path tasks_local --batch_size 16

Question texts and scores are lmms-eval's in that case. `protocol` still chooses the conversation and the padding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evals.tasks.base import LMMS_EVAL
from evals.tasks.build import lmms_folder
from evals.tasks.checks import missing
from evals.tasks.data import HUB, MINI, TaskSpec, locate
from evals.tasks.registry import TASKS
from hidrop.atomic_file import make_folder, write_atomically
from hidrop.errors import UserError


def export(folder: Path, data: str = MINI) -> list[str]:
    """Write one YAML file per task that has data into `folder`, and return the names hidrop_<data's name>_<task>.

    Raises UserError if no task has data, for a damaged file, for the Hub's data, and for data with its images in
    separate files, which lmms-eval's YAML cannot join.
    """
    import yaml

    if data == HUB:
        raise UserError("data 'hub': lmms-eval has these tasks itself. Use mini, or a folder with parquet files")
    known = [TaskSpec(name, data, LMMS_EVAL) for name in TASKS]
    specs = [spec for spec in known if locate(spec).questions]
    if problems := [problem for spec in specs or known for problem in missing(spec)]:
        raise UserError("\n".join(problems))
    make_folder(folder)
    label, names = MINI if data == MINI else Path(data).resolve().name, []
    for spec in specs:
        files = locate(spec)
        if files.images:
            raise UserError(f"{spec.name}: its images are in files of their own; use a matrix for this data")
        paths = [str(path.resolve()) for path in files.questions]
        config: dict[str, Any] = {
            "include": str(lmms_folder(spec.task) / f"{spec.name}.yaml"),
            "task": f"hidrop_{label}_{spec.name}",
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {spec.source.split: paths}},
        }
        # YAML's dumper cannot write lmms-eval's !function tags, so the task's own part is text.
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True) + spec.task.export_yaml
        write_atomically(folder / f"{config['task']}.yaml", text)
        names.append(config["task"])
    return names
