"""The state of a training that can be resumed: weights, optimiser and progress, written atomically."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

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


def save(folder: Path, model: nn.Module, optimizer: Pair, progress: TrainingProgress) -> None:
    """Write a resumable state below `folder`; an interruption leaves the previous one intact."""
    name = f"state-{progress.stage}-{progress.step}"
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{name}.safetensors")
    torch.save(optimizer.state_dict(), folder / f"{name}.optimizer")
    draft = folder / "progress.json.draft"
    draft.write_text(json.dumps({**asdict(progress), "files": name}))
    os.replace(draft, folder / "progress.json")
    for old in folder.glob("state-*"):
        if old.stem != name:
            old.unlink()


def peek(folder: Path) -> TrainingProgress | None:
    """The progress of the training in `folder`. None without a training."""
    record = _read(folder)
    return TrainingProgress(**{k: v for k, v in record.items() if k != "files"}) if record else None


def load(folder: Path, model: nn.Module, optimizer: Pair) -> None:
    """Restore weights and optimiser from what `save` wrote."""
    name = _read(folder)["files"]
    model.load_state_dict(load_file(folder / f"{name}.safetensors"))
    optimizer.load_state_dict(torch.load(folder / f"{name}.optimizer", weights_only=True))


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "progress.json"
    return json.loads(path.read_text()) if path.is_file() else {}
