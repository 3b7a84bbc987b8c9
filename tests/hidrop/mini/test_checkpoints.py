"""The embedded checkpoints are what their recipes made, and nobody has changed them since."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hidrop.backbones import backbone_of
from hidrop.mini.scenes import Scene, make_scene, render
from hidrop.mini.training.patches import HEADS, patch_targets
from hidrop.mini.training.recipe import Recipe
from hidrop.models import load
from hidrop.models.digest import digest
from hidrop.models.sources import MINI
from hidrop.recipes import load_recipe

RECORDED = json.loads((MINI / "digests.json").read_text())


def test_every_embedded_model_has_a_recorded_digest() -> None:
    assert RECORDED.keys() == {path.parent.name for path in MINI.glob("*/config.json")}


@pytest.mark.parametrize("name", RECORDED)
def test_weights_are_the_recorded_ones_and_their_recipe_is_the_bundled_one(name: str) -> None:
    assert digest([MINI / name / "model.safetensors"]) == RECORDED[name]
    trained_with = json.loads((MINI / name / "training.json").read_text())["recipe"]
    assert Recipe.model_validate(trained_with) == load_recipe(f"mini-{name}")


def test_all_embedded_models_have_the_same_tower() -> None:
    """It is frozen in all lessons, so what a class token has learned holds for all of them."""
    first, *others = [load_file(MINI / name / "model.safetensors") for name in RECORDED]
    tower = [name for name in first if "vision_tower." in name]
    assert len(tower) > 80
    assert all(torch.equal(other[name], first[name]) for other in others for name in tower)


def test_class_attention_of_the_embedded_tower_prefers_patches_that_show_something() -> None:
    """Before the class token was trained, 0.52 of these pairs were in order; chance is 0.5."""
    scenes = [make_scene("test", 10_000_000 + number) for number in range(40)]  # far from those of the test sets
    model, processor = (found := load("mini:vanilla")).model, found.processor
    tower = backbone_of(model).tower
    pixels = processor.image_processor([render(scene) for scene in scenes], return_tensors="pt").pixel_values
    with torch.no_grad():
        states = tower(pixels, output_hidden_states=True).hidden_states[-2]
        layer = tower.encoder.layers[-1]
        normed = layer.layer_norm1(states)
        query, keys = layer.self_attn.q_proj(normed[:, 0]), layer.self_attn.k_proj(normed)
        heads = [(a, b) for a, b in zip(query.split(32, -1), keys.split(32, -1), strict=True)]
        seen = sum((torch.einsum("id,ind->in", a, b) / 32**0.5).softmax(-1)[:, 1:] for a, b in heads)
    assert isinstance(seen, torch.Tensor)
    in_order = []
    for scene, row in zip(scenes, seen.numpy(), strict=True):
        filled = _filled(scene)
        if not filled.all():
            in_order.append((row[filled][:, None] > row[~filled][None]).mean())
    assert len(in_order) > 30 and np.mean(in_order) > 0.9


def _filled(scene: Scene) -> np.ndarray:
    """For each patch, whether its cell has a digit or a part of a sign."""
    columns = [list(HEADS).index(name) for name in ("digit", "word", "number_0")]
    return (patch_targets(scene)[:, columns] > 0).any(1)
