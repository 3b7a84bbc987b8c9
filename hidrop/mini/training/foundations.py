"""What LLaVA's recipe starts from, at mini scale: a vision tower that sees, and words for what it sees.

- The tower's warm-up replaces CLIP's pretraining. It is supervised: every patch learns what is in its cell and in the
  neighbouring cells. It depends on no reduction method, so it is made once and shared by all recipes with the same
  settings.
- The class token then learns what is in the whole image (class_token.py), also once.
- The alignment replaces CLIP's matching of images and words. For each patch, the projector learns to give the mean
  embedding of the words that name what is there, and to keep the tower's knowledge of the neighbouring cells readable.
  The decoder itself starts from random weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from hidrop.backbones import backbone_of
from hidrop.checkpoint_files import in_words
from hidrop.errors import UserError
from hidrop.mini.scenes import COLORS, PLACES, Scene, make_scene, render
from hidrop.mini.training import class_token
from hidrop.mini.training.collator import SceneCollator
from hidrop.mini.training.optimizer import Pair, warm_then_decay
from hidrop.mini.training.patches import HEADS, WEIGHTS, PatchHeads, patch_targets
from hidrop.mini.training.recipe import Recipe, Stage

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

log = logging.getLogger("hidrop.training")
LOG_EVERY = 20
# Raise when the data or the code of a foundation changes, so that an old one is not reused.
VERSION = 2


def lay(model: LlavaForConditionalGeneration, collator: SceneCollator, plan: Recipe, shared: Path) -> None:
    """Give `model` its foundations. The tower comes from the folder `shared` if one with these settings is there.

    A recipe that starts from another model gets that model's weights. Raises UserError if that model does not fit.
    """
    if plan.start is not None:
        take_over(model, collator, plan.start)
        return
    assert plan.tower is not None and plan.align is not None
    tower = backbone_of(model).tower
    stages = [stage.model_dump() for stage in (plan.tower, plan.class_token) if stage is not None]
    settings = [VERSION, plan.seed, stages, WEIGHTS, tower.config.to_dict()]
    identity = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
    path = shared / f"tower-{identity[:12]}.safetensors"
    if path.is_file():
        log.info("tower: taken from %s", path)
        with in_words(f"{path}: the tower cannot be read", "Remove this file; the tower is then trained again"):
            tower.load_state_dict(load_file(path))
    else:
        _tower(tower, collator, plan.tower, plan.seed)
        if plan.class_token is not None:
            add_class_token(tower, collator, plan.class_token, plan.seed)
        shared.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.draft")
        save_file({k: v.contiguous() for k, v in tower.state_dict().items()}, draft)
        os.replace(draft, path)
    _align(model, collator, plan.align, plan.seed)


def take_over(model: LlavaForConditionalGeneration, collator: SceneCollator, source: str) -> None:
    """Give `model` the weights of another embedded model."""
    from hidrop.models import load

    found = load(source)
    if found.tokenizer.get_vocab() != collator.tokenizer.get_vocab():
        raise UserError(f"start: {source} has another tokenizer than the embedded models")
    try:
        model.load_state_dict(found.model.state_dict())
    except RuntimeError as error:
        raise UserError(f"start: {source} has other sizes than the embedded models: {error}") from None


def _scenes(kind: int, seed: int, step: int, count: int) -> list[Scene]:
    rng = np.random.default_rng([seed, kind, step])
    return [make_scene("train", int(number)) for number in rng.integers(1 << 40, size=count)]


def _features(tower: Any, scenes: list[Scene], collator: SceneCollator) -> torch.Tensor:
    """The tower's features of each patch, which the projector gets: (scenes, patches, hidden)."""
    pixels = collator.normalise([render(scene) for scene in scenes])
    return tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]


def _say(name: str, step: int, stage: Stage, losses: list[float], started: float, more: str = "") -> None:
    if (step + 1) % LOG_EVERY == 0:
        recent, spent = float(np.mean(losses[-LOG_EVERY:])), time.monotonic() - started
        log.info("%s %d/%d  loss %.3f  %s%.0f s", name, step + 1, stage.steps, recent, more, spent)


def _tower(tower: Any, collator: SceneCollator, stage: Stage, seed: int) -> None:
    torch.manual_seed(seed)
    heads = PatchHeads(tower.config.hidden_size)
    optimizer = Pair([*tower.named_parameters(), *heads.named_parameters()], stage.lr)
    started, losses = time.monotonic(), []
    for step in range(stage.steps):
        scenes = _scenes(0, seed, step, stage.batch)
        targets = torch.from_numpy(np.stack([patch_targets(scene) for scene in scenes]))
        features = _features(tower, scenes, collator)
        loss, accuracy = heads.loss(features, targets, WEIGHTS)
        loss.backward()
        optimizer.step(warm_then_decay(step, stage.steps))
        losses.append(loss.item())
        _say("tower", step, stage, losses, started, _shown(accuracy))


def add_class_token(tower: Any, collator: SceneCollator, stage: Stage, seed: int) -> None:
    """Teach a tower's class token what is in the image; its patch features stay close to what they were."""
    class_token.learn(
        tower,
        scenes=lambda step: _scenes(2, seed, step, stage.batch),
        pixels=lambda scenes: collator.normalise([render(scene) for scene in scenes]),
        stage=stage,
        seed=seed,
        say=lambda step, losses, started, more: _say("class token", step, stage, losses, started, more),
    )


def _shown(accuracy: dict[str, float]) -> str:
    return "".join(f"{name} {accuracy[name]:.2f}  " for name in ("color", "digit", "digit_left", "word", "number_0"))


def _align(model: LlavaForConditionalGeneration, collator: SceneCollator, stage: Stage, seed: int) -> None:
    """Regress the projector's output on the words' mean embedding. Tower and embeddings are frozen.

    The words name what is in a patch's own cell. A second loss reads all classes off the output. Without it the
    projector would drop the neighbours, and "left of the red 7" would take the decoder two look-ups instead of one.
    """
    table = model.get_input_embeddings().weight.detach()
    words = _patch_words(collator)
    backbone = backbone_of(model)
    projector = backbone.projector
    torch.manual_seed(seed)  # whether the tower was trained just now or read from a file
    heads = PatchHeads(table.shape[1])
    optimizer = Pair([*projector.named_parameters(), *heads.named_parameters()], stage.lr)
    spread, started, losses = table.std(), time.monotonic(), []
    for step in range(stage.steps):
        scenes = _scenes(1, seed, step, stage.batch)
        classes = [patch_targets(scene) for scene in scenes]
        with torch.no_grad():
            features = _features(backbone.tower, scenes, collator)
            target = torch.stack([_word_embedding(each, words, table) for each in classes])
        given = projector(features)
        distance = ((given - target) / spread).square().mean()
        reading, accuracy = heads.loss(given, torch.from_numpy(np.stack(classes)), dict.fromkeys(HEADS, 1.0))
        (distance + reading).backward()
        optimizer.step(warm_then_decay(step, stage.steps))
        losses.append(distance.item())
        _say("align", step, stage, losses, started, _shown(accuracy))


def _patch_words(collator: SceneCollator) -> dict[str, list[list[int]]]:
    """For the heads that have words: class -> token ids of the word (empty for "nothing of the kind")."""
    from hidrop.mini.glyphs import WORDS

    def ids(text: str) -> list[int]:
        return collator.tokenizer(text, add_special_tokens=False).input_ids

    # As in answers: a space before the first digit of a number, and no space before the others.
    return {
        "place": [ids(f" {place}") for place in PLACES],
        "digit": [ids(" none"), *(ids(f" {value}") for value in range(10))],
        "color": [[], *(ids(f" {color}") for color in COLORS)],
        "word": [[], *(ids(f" word {word}") for word in WORDS)],
        "number_0": [[], *(ids(f" number {value}") for value in range(10))],
        **{f"number_{place}": [[], *(ids(str(value)) for value in range(10))] for place in (1, 2)},
    }


def _word_embedding(
    targets_PH: NDArray[np.int64], words: dict[str, list[list[int]]], table: torch.Tensor
) -> torch.Tensor:
    """The mean embedding of each patch's words, times the root of their number: (patches, hidden).

    The root gives several words the length of one, so that the decoder gets inputs of the usual size.
    """
    rows = []
    columns = [(list(HEADS).index(name), classes) for name, classes in words.items()]
    for patch in targets_PH:
        ids = [token for column, classes in columns for token in classes[patch[column]]]
        rows.append(table[ids].mean(0) * len(ids) ** 0.5)
    return torch.stack(rows)
