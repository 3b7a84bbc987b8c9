"""Everything that would stop a recipe of LLaVA's stages on this machine, found before any weight is read."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import fields
from pathlib import Path

from hidrop.backbones import geometry_of
from hidrop.errors import UserError
from hidrop.geometry import Geometry
from hidrop.pretrained import pretrained
from hidrop.program import program
from hidrop.reducer import build_entry
from hidrop.training.recipe import LlavaRecipe, Parts


def problems(recipe: LlavaRecipe) -> list[str]:
    """One line per problem, with its place and the way out."""
    found = [*_weights(recipe), *_data(recipe), *_packages(recipe)]
    try:
        recipe.accumulation(int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError as error:
        found.append(f"{recipe.name}: {error}. Change per_device, or the number of processes")
    return found


def summary(recipe: LlavaRecipe) -> str:
    """The recipe in one line."""
    method = build_entry(recipe.method)
    settings = ", ".join(f"{f.name} {getattr(method, f.name)}" for f in fields(method))
    return (
        f"{recipe.train}, batch {recipe.batch}, lr {recipe.lr:g}, {method.name}{f' ({settings})' if settings else ''}"
    )


def _weights(recipe: LlavaRecipe) -> list[str]:
    from hidrop.models import peek
    from hidrop.models.sources import find

    found = []
    names = [recipe.model.language_model, recipe.model.vision_tower] if isinstance(recipe.model, Parts) else []
    for name in names:
        try:
            find(name)
        except UserError as error:
            found.append(f"{recipe.name}: model: {error}")
    if not found:
        try:
            geometry = parts_geometry(recipe.model) if isinstance(recipe.model, Parts) else peek(recipe.model).geometry
            build_entry(recipe.method).plan(geometry)
        except UserError as error:
            earlier = _earlier(str(recipe.model))
            found.append(f"{recipe.name}: model: {earlier or error}")
        except ValueError as error:
            found.append(f"{recipe.name}: method: {error}")
    return found


def parts_geometry(parts: Parts) -> Geometry:
    """The sizes of the model that will be assembled, from the configs of its parts."""
    from transformers import AutoConfig, LlavaConfig

    from hidrop.models.sources import find

    text, vision = (pretrained(AutoConfig, find(name)) for name in (parts.language_model, parts.vision_tower))
    vision = getattr(vision, "vision_config", vision)
    side = vision.image_size // vision.patch_size
    return geometry_of(LlavaConfig(text_config=text, vision_config=vision, image_seq_length=side**2))


def _earlier(model: str) -> str | None:
    """What to do if the model is written by another recipe and is missing."""
    path = Path(model)
    if path.name != "final" or path.parent.parent != Path("runs/train"):
        return None
    return f"{model} is not there: `{program()} train {path.parent.name}` writes it"


def _data(recipe: LlavaRecipe) -> list[str]:
    way = f". Get it with: {recipe.data.get}" if recipe.data.get else ""
    missing = [path for path in (recipe.data.conversations, recipe.data.images) if not path.exists()]
    return [f"{recipe.name}: data: {path} is not there{way}" for path in missing]


def _packages(recipe: LlavaRecipe) -> list[str]:
    needed = {"deepspeed": recipe.sharding == "zero3", "peft": recipe.lora is not None}
    needed |= {name: name in recipe.report_to for name in ("tensorboard", "wandb", "trackio")}
    lacking = [name for name, wanted in needed.items() if wanted and importlib.util.find_spec(name) is None]
    return [f"{recipe.name}: {name} is not installed: pip install -c constraints.txt {name}" for name in lacking]
