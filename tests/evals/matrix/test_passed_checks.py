"""A checkpoint that passed its checks is checked again when something changes that they depend on, and only then."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hidrop.models
from evals.matrix import validate
from evals.matrix.resolve import resolve
from evals.matrix.schema import load_matrix
from hidrop.models.sources import MINI

Look = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("hidrop.remembered.SETTLED", -1.0)
    return Path(shutil.copytree(MINI / "vanilla", tmp_path / "checkpoint"))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources of the checkpoints that were checked."""
    found, real = [], hidrop.models.check

    def check(source: Any, *limits: Any) -> Any:
        found.append(str(source))
        return real(source, *limits)

    monkeypatch.setattr(hidrop.models, "check", check)
    return found


@pytest.fixture
def look(folder: Path, tmp_path: Path, data_folder: Path) -> Look:
    """The problems of the checkpoint in a matrix."""

    def run(asked: str = "llava", methods: str = "{vanilla: {}}", more: str = "") -> list[str]:
        path = tmp_path / "own.yaml"
        path.write_text(
            f"protocol: {asked}\nmodels: {{a: {{source: '{folder}'{more}}}}}\n"
            f"methods: {methods}\ntasks: {{gqa: {{data: {data_folder}}}}}\n"
        )
        matrix = load_matrix(path)
        return validate.models(matrix, matrix.cells(), resolve(matrix, matrix.cells())[0])

    return run


def test_a_checkpoint_that_passed_is_not_checked_again(look: Look, checks: list[str]) -> None:
    assert look() == look() == look(methods="{fastv: {layer: 1, keep: 4}}") == []
    assert len(checks) == 1


def test_each_file_of_a_checkpoint_makes_it_be_checked_again(look: Look, checks: list[str], folder: Path) -> None:
    look()
    files = sorted(file for file in folder.iterdir() if file.name != "training.json")
    assert len(files) == 7
    for count, file in enumerate(files, start=2):
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
        look()
        assert len(checks) == count, file.name
    (folder / "special_tokens_map.json").write_text("{}")
    look()
    assert len(checks) == len(files) + 2


@pytest.mark.parametrize(
    "settings", [{"asked": "native"}, {"more": ", reference_tokens: 100, max_pixels: 5000"}, {"asked": "lmms-eval"}]
)
def test_other_settings_of_the_checks_make_it_be_checked_again(
    settings: dict[str, str], look: Look, checks: list[str]
) -> None:
    look()
    look(**settings)
    assert len(checks) == 2


def test_problems_are_found_every_time_and_the_repaired_checkpoint_passes(
    look: Look, checks: list[str], folder: Path
) -> None:
    file = folder / "tokenizer.json"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    first = look()
    assert "tokenizer.json: not JSON" in first[0] and look() == first
    file.write_bytes(content)
    assert look() == look() == []
    assert len(checks) == 3


def test_a_method_with_files_of_its_own_is_checked_every_time(look: Look, checks: list[str], tmp_path: Path) -> None:
    with_file = f"{{cdpruner: {{keep: 4, relevance: clip, text_tower: {tmp_path / 'nowhere'}}}}}"
    without, stack = "{cdpruner: {keep: 4}}", "{own: {stack: [{cdpruner: {keep: 4}}, {vtw: {exit: 7}}]}}"
    assert look(methods=without) == look(methods=stack) == []
    assert len(checks) == 1
    for count in (2, 3):
        assert "no such folder" in look(methods=with_file)[0]
        assert len(checks) == count


def test_a_file_that_changes_while_it_is_checked_is_not_remembered(
    look: Look, checks: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hidrop.models.check

    def check(source: Any, *limits: Any) -> Any:
        found = real(source, *limits)
        (folder / "generation_config.json").write_text("{}")
        return found

    monkeypatch.setattr(hidrop.models, "check", check)
    assert look() == look() == []
    assert len(checks) == 2


def test_a_checkpoint_that_has_just_been_written_is_checked_every_time(
    look: Look, checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hidrop.remembered.SETTLED", 60.0)
    assert look() == look() == []
    assert len(checks) == 2
