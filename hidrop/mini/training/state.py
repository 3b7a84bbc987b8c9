"""The state of a training that can be resumed: weights, optimiser and progress, written atomically."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hidrop.atomic_file import write_atomically
from hidrop.checkpoint_files import in_words, read_object
from hidrop.errors import UserError, shown
from hidrop.mini.training.optimizer import Pair


@dataclass
class TrainingProgress:
    """The next step to take. `stage` counts the recipe's lessons from 0. `seconds` is the training time so far.

    `plan` is the recipe at the time when the state was written.
    """

    recipe: str
    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    plan: dict[str, Any] = field(default_factory=dict)


# The fields of progress.json, and the types that `save` writes.
FIELDS: dict[str, tuple[type, ...]] = {
    "recipe": (str,),
    "stage": (int,),
    "step": (int,),
    "seconds": (int, float),
    "loss": (int, float),
    "plan": (dict,),
    "files": (str,),
}


def save(folder: Path, model: nn.Module, optimizer: Pair, progress: TrainingProgress) -> None:
    """Write a resumable state below `folder`; an interruption leaves the previous one intact."""
    name = f"state-{progress.stage}-{progress.step}"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{name}.safetensors")
    torch.save(optimizer.state_dict(), folder / f"{name}.optimizer")
    write_atomically(folder / "progress.json", json.dumps({**asdict(progress), "files": name}))
    for old in folder.glob("state-*"):
        if old.stem != name:
            old.unlink()


def peek(folder: Path) -> TrainingProgress | None:
    """The progress of the training in `folder`. None without a training. Raises UserError for a broken state."""
    record = _read(folder)
    return TrainingProgress(**{k: v for k, v in record.items() if k != "files"}) if record else None


def load(folder: Path, model: nn.Module, optimizer: Pair) -> None:
    """Restore weights and optimiser from what `save` wrote. Raises UserError for a broken state."""
    name = _read(folder)["files"]
    with in_words(f"{folder}: the training cannot go on from {name}", _way(folder)):
        model.load_state_dict(load_file(folder / f"{name}.safetensors"))
        optimizer.load_state_dict(torch.load(folder / f"{name}.optimizer", weights_only=True))


def _read(folder: Path) -> dict[str, Any]:
    """progress.json, with the types of its fields checked; empty without one."""
    path = folder / "progress.json"
    try:
        record = read_object(path, _way(folder))
    except FileNotFoundError:
        return {}
    for name in {"recipe", "files"} | record.keys():
        value = record.get(name)
        if type(value) not in FIELDS.get(name, ()) or (type(value) is int and value < 0):
            raise UserError(f"{path}: {name} is {shown(value)}, which no training writes. {_way(folder)}")
    if not re.fullmatch(r"state-\d+-\d+", record["files"]):
        raise UserError(f"{path}: files is {shown(record['files'])}, which no training writes. {_way(folder)}")
    return record


def _way(folder: Path) -> str:
    return f"Remove {folder} to start over"
