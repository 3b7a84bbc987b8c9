"""Everything that would stop a recipe of LLaVA's stages on this machine, found before any weight is read.

A training that passes ends in a checkpoint that loads: the model's files, the data, the settings of transformers'
Trainer, the folders and saved states are looked at, and some samples are made as training makes them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from hidrop.atomic_file import unwritable
from hidrop.errors import UserError, reason
from hidrop.methods import build_entry
from hidrop.program import program
from hidrop.training.recipe import LlavaRecipe, Parts

if TYPE_CHECKING:
    from hidrop.models.checking import Whole
    from hidrop.training.conversations import Conversations
    from hidrop.training.new_model import NewModel

TRIED = 16  # samples of each modality that are made on trial


@dataclass(frozen=True)
class Findings:
    """problems: what stops the training, one line each with its place and the way out. notes: what it goes on with."""

    problems: list[str]
    notes: list[str]


def findings(recipe: LlavaRecipe, *, out: Path | None = None, work: Path | None = None) -> Findings:
    """All that `train` with these arguments would find. Writes nothing."""
    work = work or Path("runs") / "train" / recipe.name
    notes: list[str] = []
    model, problems = _model(recipe)
    problems += _packages(recipe)
    if not problems:
        problems += _settings(recipe, work)
    problems += _folders(recipe, out or work / "final", work, notes)
    problems += _data(recipe, model, notes)
    return Findings([f"{recipe.name}: {line}" for line in problems], [f"{recipe.name}: {line}" for line in notes])


def summary(recipe: LlavaRecipe) -> str:
    """The recipe in one line."""
    method = build_entry(recipe.method)
    settings = ", ".join(f"{f.name} {getattr(method, f.name)}" for f in fields(method))
    return (
        f"{recipe.train}, batch {recipe.batch}, lr {recipe.lr:g}, {method.name}{f' ({settings})' if settings else ''}"
    )


def _model(recipe: LlavaRecipe) -> tuple[Whole | NewModel | None, list[str]]:
    from hidrop.training.student import unfit

    try:
        found = _found(recipe)
    except UserError as error:
        both = f"{error}".replace("\n", "\n  ")
        return None, [f"model: {_earlier(recipe.model) or both}"]
    geometry = found.backbone.geometry
    problems = [f"model: {problem}"] if (problem := unfit(found.backbone, found.tokenizer)) else []
    if recipe.lora and recipe.lora.rank > geometry.hidden:
        problems.append(f"lora.rank: {recipe.lora.rank} is more than the decoder's width ({geometry.hidden})")
    try:
        build_entry(recipe.method, geometry).plan(geometry)
    except ValueError as error:
        problems.append(f"method: {error}")
    return found, problems


def _found(recipe: LlavaRecipe) -> Whole | NewModel:
    from hidrop.models import check
    from hidrop.models.sources import find
    from hidrop.training.new_model import new_model

    if not isinstance(recipe.model, Parts):
        return check(recipe.model)
    lacking = []
    for name in (recipe.model.language_model, recipe.model.vision_tower):
        try:
            find(name)
        except UserError as error:
            lacking.append(str(error))
    if lacking:
        raise UserError("\n".join(lacking))
    return new_model(recipe.model)


def _earlier(model: Parts | str) -> str | None:
    """What to do if the model is written by another recipe and is missing."""
    path = Path(str(model))
    if path.name != "final" or path.parent.parent != Path("runs/train") or path.exists():
        return None
    return f"{model} is not there: `{program()} train {path.parent.name}` writes it"


def _packages(recipe: LlavaRecipe) -> list[str]:
    needed = {"deepspeed": recipe.sharding == "zero3", "peft": recipe.lora is not None}
    needed |= {name: name in recipe.report_to for name in ("tensorboard", "wandb", "trackio")}
    lacking = [name for name, wanted in needed.items() if wanted and importlib.util.find_spec(name) is None]
    return [f"{name} is not installed: pip install -c constraints.txt {name}" for name in lacking]


def _settings(recipe: LlavaRecipe, work: Path) -> Iterator[str]:
    """Kernel, type, processes, and whatever else the Trainer's own checks refuse on this machine."""
    import torch

    from hidrop.models.loading import check_kernel
    from hidrop.training.run import arguments_of

    try:
        check_kernel(recipe.attention, "cuda" if torch.cuda.is_available() else "cpu", recipe.dtype)
    except UserError as error:
        yield str(error)
    try:
        arguments_of(recipe, work)
    except UserError as error:
        yield str(error).removeprefix(f"{recipe.name}: ")
    except Exception as error:  # for a type or an option that this machine does not have
        yield f"the settings are refused by transformers' Trainer on this machine ({reason(error)})"


def _folders(recipe: LlavaRecipe, out: Path, work: Path, notes: list[str]) -> Iterator[str]:
    from hidrop.models.origins import own_folders
    from hidrop.training.checkpoints import states, to_continue

    folders = {"--out": out, "the training's folder": work}
    yield from own_folders(recipe.sources, folders)
    for name, folder in folders.items():
        if problem := unwritable(folder):
            yield f"{name} {folder}: {problem}"
    if not work.is_dir() or not states(work):
        return
    try:
        state = to_continue(recipe, work, resume=True)
        notes.append(f"{work} holds a training: `train --resume` continues it from {state and state.name}")
    except UserError as error:
        yield str(error)


def _data(recipe: LlavaRecipe, model: Whole | NewModel | None, notes: list[str]) -> Iterator[str]:
    from hidrop.training.conversations import Conversations
    from hidrop.training.dataset import Order

    way = f". Get it with: {recipe.data.get}" if recipe.data.get else ""
    missing = [path for path in (recipe.data.conversations, recipe.data.images) if not path.exists()]
    yield from (f"data: {path} is not there{way}" for path in missing)
    if not missing and not recipe.data.images.is_dir():
        yield f"data: {recipe.data.images} is not a folder"
    elif not missing:
        try:
            conversations = Conversations(recipe.data.conversations)
            if problems := conversations.problems():
                notes.append(f"data: left out of {recipe.data.conversations}: {problems}")
            Order(conversations.lengths, recipe.batch, recipe.seed, grouped=recipe.grouped)
        except UserError as error:
            yield f"data: {error}"
        else:
            yield from _images(recipe, conversations, way, notes)
            if model:
                yield from _samples(recipe, conversations, model, notes)


def _images(recipe: LlavaRecipe, conversations: Conversations, way: str, notes: list[str]) -> Iterator[str]:
    """Images that are not there. Training goes on without some, and stops after too many in a row."""
    from hidrop.training.dataset import PATIENCE

    there: dict[str, bool] = {}
    lacking, row, longest = 0, 0, 0
    for turns in conversations:
        for path in turns.images:
            if path not in there:
                there[path] = os.path.isfile(recipe.data.images / path)
        if turns.images:
            gone = not all(there[path] for path in turns.images)
            lacking, row = lacking + gone, row + 1 if gone else 0
            longest = max(longest, row)
    files = [path for path, found in there.items() if not found]
    if not files:
        return
    text = (
        f"data: {len(files)} of {len(there)} images are not in {recipe.data.images}, the first: {files[0]}; "
        f"{lacking} samples are without theirs"
    )
    if longest > PATIENCE or len(files) == len(there):
        yield f"{text}. Training stops at more than {PATIENCE} in a row{way}"
    else:
        notes.append(f"{text} and are replaced by others")


def _samples(
    recipe: LlavaRecipe, conversations: Conversations, model: Whole | NewModel, notes: list[str]
) -> Iterator[str]:
    """Make some samples as training does."""
    import numpy as np

    from hidrop.training.dataset import samples_of

    samples = samples_of(recipe, conversations, model.backbone, model.tokenizer, model.image_processor)
    for kind, of in (("with images", conversations.lengths > 0), ("without an image", conversations.lengths <= 0)):
        places = np.flatnonzero(of)
        tried = places[np.unique(np.linspace(0, len(places) - 1, min(TRIED, len(places))).astype(int))]
        failed = []
        for place in map(int, tried):
            if not all((recipe.data.images / path).is_file() for path in conversations[place].images):
                continue  # `_images` has counted it
            try:
                samples.read(place)
            except Exception as error:  # as in training, a broken file can make PIL raise anything
                failed.append(f"sample {place}: {reason(error)}")
        if failed and len(failed) == len(tried):
            yield f"data: no sample {kind} can be used, of {len(tried)} tried. The first problem: {failed[0]}"
        elif failed:
            notes.append(f"data: {len(failed)} of {len(tried)} samples {kind} cannot be used: {failed[0]}")
