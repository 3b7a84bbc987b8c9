"""The embedded checkpoints are what their recipes made, and nobody has changed them since."""

from __future__ import annotations

import json

import pytest

from hidrop.mini.training.recipe import Recipe
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
