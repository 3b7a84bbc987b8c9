"""train hands its options on, and says what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.cli import main


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What `hidrop.recipes.train` was called with."""
    given: dict[str, Any] = {}

    def train(recipe: str, **options: Any) -> Path:
        given.update(options, recipe=recipe)
        return tmp_path / "trained"

    monkeypatch.setattr("hidrop.recipes.train", train)
    return given


def test_train_hands_recipe_and_options_on(
    given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "mini-hidrop", "--resume", "--out", str(tmp_path), "--json"]) == 0
    assert given == {"recipe": "mini-hidrop", "resume": True, "out": tmp_path}
    assert json.loads(capsys.readouterr().out) == {"recipe": "mini-hidrop", "checkpoint": str(tmp_path / "trained")}


def test_only_the_first_of_several_processes_prints_the_document(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["train", "mini-hidrop", "--json"]) == 0
    assert given["resume"] is False and capsys.readouterr().out == ""
