"""Give trained embedded models a class token afterwards: their towers alone change.

    python -m hidrop.mini.training.add_class_token RECIPE OUT SOURCE [SOURCE ...]

RECIPE is a file, such as recipes/mini-vanilla.yaml; its `class_token` and its seed are used. Each SOURCE is a folder
with an embedded model, or `mini:<name>`. All of them have the same tower, which is trained once. OUT/<name> gets each
one's files, with the tower's weights replaced and all others as they are, bit by bit.

A full training makes another tower than this: it teaches the class token in float32, before the alignment, so that
projector and decoder learn with the tower as it then is. Here they were trained with the tower as it was.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hidrop.backbones import backbone_of
from hidrop.checkpoint_files import in_words, read_object
from hidrop.errors import UserError
from hidrop.mini.training import foundations
from hidrop.mini.training.collator import SceneCollator
from hidrop.mini.training.recipe import Recipe
from hidrop.models import load
from hidrop.models.digest import digest
from hidrop.models.sources import MINI
from hidrop.provenance import describe, versions
from hidrop.regular_files import local_path
from hidrop.strict_yaml import checked, read

WEIGHTS = "model.safetensors"
TOWER = "vision_tower."
WAY = "Name the folder of an embedded model, as its training wrote it"


def add(plan: Recipe, out: Path, sources: list[Path]) -> list[Path]:
    """Write each of `sources` below `out`, with a class token trained as `plan` says; returns the folders.

    Raises UserError for a recipe without `class_token`, for towers that differ, and for a folder that exists.
    """
    if plan.class_token is None:
        raise UserError(f"{plan.name}: no class_token. Name a recipe with one")
    folders = [out / source.name for source in sources]
    for folder in folders:
        if folder.exists():
            raise UserError(f"{folder}: exists. Name another folder, or move it away")
    stored = [_stored(source / WEIGHTS) for source in sources]
    names = [name for name in stored[0] if TOWER in name]
    for source, weights in zip(sources, stored, strict=True):
        if not all(name in weights and torch.equal(weights[name], stored[0][name]) for name in names):
            raise UserError(f"{source}: its tower is not that of {sources[0]}. Run the command for each of them")
    started = time.monotonic()
    tower = _trained(plan, sources[0])
    for source, folder, weights in zip(sources, folders, stored, strict=True):
        made = {
            name: tower[name.split(TOWER)[1]].to(old.dtype) if name in names else old for name, old in weights.items()
        }
        shutil.copytree(source, folder)
        save_file({name: weight.contiguous() for name, weight in made.items()}, folder / WEIGHTS, {"format": "pt"})
        record: dict[str, Any] = read_object(folder / "training.json", WAY)
        if record["recipe"].get("start") is None:
            record["recipe"]["class_token"] = plan.class_token.model_dump()
        record["class_token_added"] = {
            "to": digest([source / WEIGHTS]),
            "recipe": plan.name,
            "seed": plan.seed,
            "stage": plan.class_token.model_dump(),
            "seconds": round(time.monotonic() - started),
            "hardware": describe(),
            "versions": versions(),
            "date": date.today().isoformat(),
        }
        (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return folders


def _stored(path: Path) -> dict[str, torch.Tensor]:
    with in_words(f"{path}: cannot be read", WAY):
        return load_file(path)


def _trained(plan: Recipe, source: Path) -> dict[str, torch.Tensor]:
    """The weights of this model's tower after the stage `class_token`, float32."""
    assert plan.class_token is not None
    found = load(str(source))
    backbone = backbone_of(found.model)
    images = found.processor.image_processor
    collator = SceneCollator(
        found.tokenizer,
        backbone.placeholder_id,
        found.model.config.image_seq_length,
        images.image_mean,
        images.image_std,
    )
    foundations.add_class_token(backbone.tower, collator, plan.class_token, plan.seed)
    return dict(backbone.tower.state_dict())


def main() -> None:
    if len(sys.argv) < 4:
        sys.exit("python -m hidrop.mini.training.add_class_token RECIPE OUT SOURCE [SOURCE ...]")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        path = local_path(sys.argv[1], f"recipe '{sys.argv[1]}'")
        plan = checked(Recipe, read(path, path.name), path.name)
        sources = [MINI / name[5:] if name.startswith("mini:") else Path(name) for name in sys.argv[3:]]
        for folder in add(plan, Path(sys.argv[2]), sources):
            print(folder)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
