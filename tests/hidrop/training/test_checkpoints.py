"""Continuing from saved states that are not whole: the newest whole one is taken, or words say what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hidrop.errors import UserError
from hidrop.models import load
from hidrop.recipes import load_recipe, train
from hidrop.training.checkpoints import RECORD, check_state, states


@pytest.fixture
def trained(recipe: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """A recipe, the folder of its finished training with states after steps 2 and 4, and its weights."""
    path, work = recipe(), tmp_path / "w"
    out = train(str(path), out=tmp_path / "whole", work=work)
    assert [state.name for state in states(work)] == ["checkpoint-4", "checkpoint-2"]
    return path, work, load(out).model.state_dict()


def cut(file: Path, length: int | None = None) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2 if length is None else length])


def set_field(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def other_tensors(file: Path) -> None:
    torch.save({"x": torch.ones(2)}, file)


BREAKS: dict[str, Callable[[Path], object]] = {
    "optimizer.pt cut": lambda s: cut(s / "optimizer.pt"),
    "optimizer.pt empty": lambda s: cut(s / "optimizer.pt", 0),
    "optimizer.pt gone": lambda s: (s / "optimizer.pt").unlink(),
    "optimizer.pt other": lambda s: other_tensors(s / "optimizer.pt"),
    "scheduler.pt cut": lambda s: cut(s / "scheduler.pt"),
    "rng_state.pth cut": lambda s: cut(s / "rng_state.pth"),
    "rng_state.pth text": lambda s: (s / "rng_state.pth").write_text("no state"),
    "trainer_state.json gone": lambda s: (s / "trainer_state.json").unlink(),
    "trainer_state.json cut": lambda s: cut(s / "trainer_state.json"),
    "trainer_state.json list": lambda s: (s / "trainer_state.json").write_text("[1]"),
    "trainer_state.json null": lambda s: (s / "trainer_state.json").write_text("null"),
    "trainer_state.json kind": lambda s: set_field(s / "trainer_state.json", global_step="4"),
    "trainer_state.json step": lambda s: set_field(s / "trainer_state.json", global_step=3),
    "trainer_state.json more": lambda s: set_field(s / "trainer_state.json", no_such_field=3),
    "model.safetensors cut": lambda s: cut(s / "model.safetensors"),
    "model.safetensors gone": lambda s: (s / "model.safetensors").unlink(),
    "config.json cut": lambda s: cut(s / "config.json"),
    "config.json other": lambda s: set_field(s / "config.json", text_config={"hidden_size": 64}),
}


def test_every_broken_file_of_a_state_is_found_and_named(trained: Any, tmp_path: Path) -> None:
    path, work, _ = trained
    plan, newest = load_recipe(str(path)), states(work)[0]
    check_state(newest, plan)
    for what, spoil in BREAKS.items():
        state = tmp_path / "copy" / newest.name
        shutil.copytree(newest, state)
        spoil(state)
        with pytest.raises(UserError) as caught:
            check_state(state, plan)
        name, said = what.split()[0], str(caught.value)
        assert str(state) in said, what
        assert name in said or what in ("model.safetensors gone", "config.json other"), (what, said)
        shutil.rmtree(state)


def test_a_broken_newest_state_is_passed_over_and_the_one_before_gives_the_same_weights(
    trained: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, work, whole = trained
    cut(work / "checkpoint-4" / "optimizer.pt")
    with caplog.at_level("WARNING"):
        out = train(str(path), out=tmp_path / "again", work=work, resume=True)
    assert "checkpoint-4" in caplog.text and "continuing from" in caplog.text and "optimizer.pt" in caplog.text
    found = load(out).model.state_dict()
    assert all(torch.equal(whole[name], found[name]) for name in whole)
    assert json.loads((out / "training.json").read_text())["session"]["steps"] == 2


def test_without_a_whole_state_the_way_out_is_told(trained: Any, tmp_path: Path) -> None:
    path, work, _ = trained
    cut(work / "checkpoint-4" / "optimizer.pt")
    (work / "checkpoint-2" / "trainer_state.json").write_text("3")
    with pytest.raises(UserError) as caught:
        train(str(path), out=tmp_path / "again", work=work, resume=True)
    said = str(caught.value)
    assert "Remove the folder to start over" in said
    assert "checkpoint-4" in said and "checkpoint-2" in said and "holds a number" in said


def test_a_broken_record_of_the_recipe_is_told_with_the_way_out(trained: Any, tmp_path: Path) -> None:
    path, work, _ = trained
    cut(work / RECORD)
    with pytest.raises(UserError, match="If the training in .* is by this recipe, remove that file"):
        train(str(path), out=tmp_path / "again", work=work, resume=True)
    (work / RECORD).unlink()
    train(str(path), out=tmp_path / "again", work=work, resume=True)
    assert json.loads((work / RECORD).read_text())["name"] == "tiny"


def test_states_that_do_not_fit_the_optimiser_are_told_in_words(
    trained: Any, recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """What no look at a file can see: an optimiser of another number of parameters."""
    path, work, _ = trained
    for state in states(work):
        optimiser = torch.load(state / "optimizer.pt", weights_only=True)
        optimiser["param_groups"] = optimiser["param_groups"][:1]
        torch.save(optimiser, state / "optimizer.pt")
    with pytest.raises(UserError, match="checkpoint-4: the training cannot go on from this state"):
        train(str(path), out=tmp_path / "again", work=work, resume=True)
