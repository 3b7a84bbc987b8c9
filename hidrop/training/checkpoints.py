"""The saved states of a training: whether one is whole, and which one a resumed training continues from.

A training that was killed while it saved leaves half a state. transformers' Trainer takes the newest one as it is: it
ends in a traceback, or begins with a fresh optimiser where optimizer.pt is missing.
"""

from __future__ import annotations

import json
import logging
import os
import re
from contextlib import AbstractContextManager
from pathlib import Path

from hidrop.atomic_file import write_atomically
from hidrop.checkpoint_files import in_words, read_object
from hidrop.errors import UserError, shown
from hidrop.training.recipe import LlavaRecipe

log = logging.getLogger("hidrop.training")
RECORD = "recipe.json"
REMOVE = "Remove the folder of this state"
# Fields that change no weight: a resumed training may have other values.
KNOBS = {"workers", "save_steps", "keep_checkpoints", "log_steps", "report_to"}

# What transformers' Trainer counts on in trainer_state.json, and the types that it writes.
PROGRESS: dict[str, tuple[type, ...]] = {
    "global_step": (int,),
    "max_steps": (int,),
    "epoch": (int, float),
    "log_history": (list,),
}


def states(work: Path) -> list[Path]:
    """The folders of saved states in the folder of a training, the newest first."""
    found = [(int(match[1]), path) for path in work.glob("checkpoint-*") if (match := _number(path)) and path.is_dir()]
    return [path for _, path in sorted(found, reverse=True)]


def step(state: Path) -> int:
    """The optimiser step after which a state was saved."""
    match = _number(state)
    assert match
    return int(match[1])


def to_continue(recipe: LlavaRecipe, work: Path, *, resume: bool) -> Path | None:
    """The newest whole state in `work`; None where nothing was saved. Names newer broken ones in the log.

    Raises UserError, with the way out, if `work` holds a training and `resume` is not given, a training by another
    recipe, a record that cannot be read, or broken states only.
    """
    found = states(work)
    if found or resume:
        _same_recipe(recipe, work)
    if not found:
        return None
    if not resume:
        raise UserError(f"{work}: holds a training; go on with --resume, or remove the folder to start over")
    broken = []
    for state in found:
        try:
            check_state(state, recipe)
        except UserError as error:
            broken.append(f"{state.name}: {error}")
            continue
        for line in broken:
            log.warning("%s", line)
        if broken:
            log.warning("continuing from %s, the newest state that is whole", state)
        return state
    lines = "\n".join(broken)
    raise UserError(f"{work}: no saved state of this training is whole. Remove the folder to start over\n{lines}")


def write_record(recipe: LlavaRecipe, work: Path) -> None:
    """Write the recipe into the folder of its training, so that no other recipe resumes there."""
    record = work / RECORD
    work.mkdir(parents=True, exist_ok=True)
    if os.environ.get("RANK", "0") == "0":
        write_atomically(record, _said(recipe))


def check_state(state: Path, recipe: LlavaRecipe) -> None:
    """Raises UserError, naming the file, for a saved state that is not whole. Reads no weights."""
    _check_progress(state)
    if recipe.sharding == "zero3":
        if not (state / "latest").is_file() or not any(state.glob("global_step*/*optim_states.pt")):
            raise UserError(f"{state}: DeepSpeed's parts of weights and optimiser are missing")
    elif recipe.sharding == "fsdp":
        # Whole, or in the parts of torch's distributed checkpoints.
        for part in ("pytorch_model_fsdp", "optimizer"):
            if not (state / f"{part}_0" / ".metadata").is_file():
                _check_tensors(state / f"{part}.bin")
    else:
        _check_weights(state, recipe)
        _check_tensors(state / "optimizer.pt", "state", "param_groups")
    if recipe.sharding != "zero3":
        _check_tensors(state / "scheduler.pt", "last_epoch")
    for file in state.glob("rng_state*.pth"):
        _check_tensors(file, "python", "numpy", "cpu")


def _check_progress(state: Path) -> None:
    from transformers import TrainerState

    file = state / "trainer_state.json"
    try:
        said = read_object(file, REMOVE)
    except FileNotFoundError:
        raise UserError(f"{file}: is missing: the training was stopped while it saved") from None
    for name, kinds in PROGRESS.items():
        if type(said.get(name)) not in kinds:
            raise UserError(f"{file}: {name} is {shown(said.get(name))}, which no training writes")
    if said["global_step"] != step(state):
        raise UserError(f"{file}: global_step is {said['global_step']}, but the folder is {state.name}")
    with in_words(f"{file}: transformers cannot read it", REMOVE):
        TrainerState.load_from_json(str(file))


def _check_weights(state: Path, recipe: LlavaRecipe) -> None:
    from safetensors import safe_open

    from hidrop.backbones import family_of
    from hidrop.models.headers import check_weights
    from hidrop.models.sources import read_config, weight_files

    if recipe.lora:
        file = state / "adapter_model.safetensors"
        if not (state / "adapter_config.json").is_file() or not file.is_file():
            raise UserError(f"{state}: the adapter is missing")
        read_object(state / "adapter_config.json", REMOVE)
        with in_words(f"{file}: cannot be read", REMOVE), safe_open(file, framework="pt"):
            return
    family = family_of(read_config(state), f"{state}/config.json")
    if not weight_files(state):
        raise UserError(f"{state}: the weights are missing")
    check_weights(state, family.model_class, family.read_config(state))


def _check_tensors(file: Path, *keys: str) -> None:
    """A file of torch.save that holds an object with `keys`. Tensors are mapped into memory and not read."""
    import torch
    from transformers.trainer_pt_utils import safe_globals

    if not file.is_file():
        raise UserError(f"{file}: is missing")
    with in_words(f"{file}: cannot be read", REMOVE), safe_globals():
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(content, dict) or not content.keys() >= set(keys):
        raise UserError(f"{file}: does not hold {', '.join(keys)}")


def _same_recipe(recipe: LlavaRecipe, work: Path) -> None:
    record = work / RECORD
    if not record.exists():
        return
    found = read_object(
        record, f"If the training in {work} is by this recipe, remove that file; otherwise remove the folder"
    )
    said = json.loads(_said(recipe))
    if changed := sorted(name for name in said.keys() | found.keys() if said.get(name) != found.get(name)):
        raise UserError(
            f"{work}: holds a training by another recipe ({', '.join(changed)} differ; see {record}). Remove the "
            "folder, or rename one"
        )


def _said(recipe: LlavaRecipe) -> str:
    return recipe.model_dump_json(indent=1, exclude=KNOBS)


def _number(state: Path) -> re.Match[str] | None:
    return re.fullmatch(r"checkpoint-(\d{1,12})", state.name)


def going_on(state: str | None) -> AbstractContextManager[None]:
    """Around the calls that load a state into a training: their errors become words."""
    return in_words(
        f"{state}: the training cannot go on from this state",
        "Remove its folder to continue from the one before, or the training's folder to start over",
    )
