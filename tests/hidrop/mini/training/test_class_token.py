"""The class token learns what an image shows, and what was trained before still fits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hidrop.errors import UserError
from hidrop.mini.scenes import make_scene
from hidrop.mini.training import add_class_token
from hidrop.mini.training.add_class_token import add
from hidrop.mini.training.class_token import SHOWN, distance, shown_in
from hidrop.mini.training.recipe import Recipe, Stage
from hidrop.models import load
from hidrop.models.digest import digest
from hidrop.models.sources import MINI
from hidrop.recipes import load_recipe


def _plan(**changes: object) -> Recipe:
    few = Stage(steps=4, batch=2, lr=0.001)
    return load_recipe("mini-vanilla").model_copy(update={"class_token": few, **changes})  # type: ignore[return-value]


def test_the_class_token_has_to_name_every_digit_word_and_number_of_the_scene() -> None:
    for scene in map(make_scene, ["train"] * 40, range(40)):
        expected = {f"{digit.color} {digit.value}" for digit in scene.digits}
        for sign in scene.signs:
            if sign.is_number:
                expected |= {f"{place}: {sign.text[place]}" for place in range(len(sign.text))}
            else:
                expected.add(sign.text)
        labels = shown_in(scene)
        assert labels.shape == (122,)
        assert {name for name, label in zip(SHOWN, labels, strict=True) if label == 1} == expected
        assert labels.sum() == len(expected)


def test_the_distance_of_features_is_their_change_as_a_share_of_their_variance() -> None:
    old = torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 100
    assert distance(old, old) == 0
    level = old.mean((0, 1)).expand_as(old)
    torch.testing.assert_close(distance(level, old), torch.tensor(1.0, dtype=torch.float64))


def test_a_class_token_is_added_to_each_model_and_changes_its_tower_alone(tmp_path: Path) -> None:
    sources = [MINI / "vanilla", MINI / "vanilla-choices"]
    made = add(_plan(), tmp_path, sources)
    again = add(_plan(), tmp_path / "again", sources[:1])
    assert made == [tmp_path / "vanilla", tmp_path / "vanilla-choices"]
    first, second, same = (load_file(folder / "model.safetensors") for folder in [*made, *again])
    assert first.keys() == same.keys() and all(torch.equal(first[name], same[name]) for name in first)
    for source, weights in zip(sources, (first, second), strict=True):
        before = load_file(source / "model.safetensors")
        assert before.keys() == weights.keys()
        changed = {name for name in before if not torch.equal(before[name], weights[name])}
        assert changed and all("vision_tower." in name for name in changed)
        assert all(torch.equal(first[name], weights[name]) for name in changed)
        assert all(before[name].dtype == weights[name].dtype for name in before)
    records = [json.loads((folder / "training.json").read_text()) for folder in made]
    assert records[0]["recipe"]["class_token"] == {"steps": 4, "batch": 2, "lr": 0.001}
    assert "class_token" not in records[1]["recipe"]  # its tower is that of the model it started from
    for source, record in zip(sources, records, strict=True):
        assert record["class_token_added"]["to"] == digest([source / "model.safetensors"])
    assert load(made[0]).model.config.hidrop == {"name": "vanilla"}


def test_models_with_different_towers_and_folders_that_exist_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    weights = load_file(MINI / "vanilla" / "model.safetensors")
    name = next(name for name in weights if "class_embedding" in name)
    save_file(weights | {name: weights[name] + 1}, other / "model.safetensors")
    with pytest.raises(UserError, match=r"other: its tower is not that of .*vanilla"):
        add(_plan(), tmp_path / "out", [MINI / "vanilla", other])
    with pytest.raises(UserError, match=r"other: exists\. Name another folder"):
        add(_plan(), tmp_path, [other])
    with pytest.raises(UserError, match="mini-vanilla: no class_token"):
        add(_plan(class_token=None), tmp_path / "out", [MINI / "vanilla"])
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_starts_from_a_model_has_that_models_class_token(tmp_path: Path) -> None:
    recipe = tmp_path / "on.yaml"
    stage = "{steps: 4, batch: 2, lr: 0.001}"
    recipe.write_text(
        f"name: further\nstart: mini:vanilla\nclass_token: {stage}\nlessons: [{{data: drills, {stage[1:]}]\n"
    )
    with pytest.raises(UserError, match="class_token: the tower comes from the model in start"):
        load_recipe(str(recipe))


def test_the_command_line_names_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["add_class_token", "mini-vanilla"])
    with pytest.raises(SystemExit, match=r"RECIPE OUT SOURCE"):
        add_class_token.main()
