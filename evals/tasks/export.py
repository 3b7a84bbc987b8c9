"""The same tasks as YAML files, for lmms-eval's own command line.

    python -m evals.tasks export tasks_local
    lmms-eval --model hidrop --model_args pretrained=mini:vanilla,protocol=llava \
        --tasks hidrop_mini_gqa --include_path tasks_local --batch_size 16

Question texts and scores are lmms-eval's there; `protocol` still chooses conversation frame and image padding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evals.tasks.data import MINI, NAMES, TaskSpec, locate, missing
from hidrop.errors import UserError

# YAML's dumper cannot write lmms-eval's !function tags, so this line is text.
STATIC = "lmms_eval.tasks.mmbench.en_utils.mmbench_aggregate_dev_results_static"
METRICS: dict[str, str] = {
    "mmbench_en_dev": f"{{metric: gpt_eval_score, aggregation: !function {STATIC}, higher_is_better: true}}",
    "textvqa_val": "{metric: exact_match, aggregation: mean, higher_is_better: true}",
}


def export(folder: Path, data: str = MINI) -> list[str]:
    """Write one YAML a task into `folder` and return the tasks' names, hidrop_<data's name>_<task>.

    Raises UserError when data is missing, or keeps its images apart (lmms-eval's YAML cannot join them).
    """
    import lmms_eval
    import yaml

    specs = [TaskSpec(name, data) for name in NAMES]
    if problems := [problem for spec in specs for problem in missing(spec)]:
        raise UserError("\n".join(problems))
    folder.mkdir(parents=True, exist_ok=True)
    label, names = MINI if data == MINI else Path(data).resolve().name, []
    for spec in specs:
        files = locate(spec)
        if files.images:
            raise UserError(f"{spec.name}: its images are in files of their own; use a matrix for this data")
        base = Path(lmms_eval.__path__[0]) / "tasks" / spec.name.split("_")[0] / f"{spec.name}.yaml"
        paths = [str(path.resolve()) for path in files.questions]
        config: dict[str, Any] = {
            "include": str(base),
            "task": f"hidrop_{label}_{spec.name}",
            "dataset_path": "parquet",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": {spec.source.split: paths}},
        }
        if spec.name == "gqa":
            config["process_docs"] = None  # the official one downloads the images, here they are in the file
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        if spec.name in METRICS:
            text += f"metric_list:\n  - {METRICS[spec.name]}\n"
        (folder / f"{config['task']}.yaml").write_text(text, encoding="utf-8")
        names.append(config["task"])
    return names
