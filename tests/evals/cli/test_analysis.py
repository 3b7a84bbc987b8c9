"""Options of analyze: what they mean for a model of 12 layers, and which of them contradict each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evals.cli import main
from evals.cli.analysis import AnalyzeOptions, fixed_of, model_name, probes_of, telling
from hidrop.errors import UserError
from hidrop.geometry import PRESETS

TWELVE = replace(PRESETS["llava-1.5-7b"], layers=12)


def options(**given: object) -> AnalyzeOptions:
    return AnalyzeOptions(model="mini:vanilla", **given)  # type: ignore[arg-type]


def test_layers_that_the_user_decided_are_taken_over() -> None:
    fixed = fixed_of(options(inject=3, exit=9, filters="3,7"), TWELVE)
    assert (fixed.inject, fixed.exit, fixed.filters) == (3, 9, (3, 7))
    free = fixed_of(options(), TWELVE)
    assert (free.inject, free.exit, free.filters) == (None, None, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inject": 12, "exit": 10}, "--exit must be greater than --inject (got 10 and 12)"),
        ({"inject": 13}, "--inject must be a layer of the model, which has 12 (got 13)"),
        ({"filters": "5,3"}, "--filters takes layers in ascending order, such as 4,8 (got 5,3)"),
        ({"filters": "a"}, "--filters takes whole numbers of 1 or more, such as 4,8 (got a)"),
        (
            {"inject": 3, "exit": 9, "filters": "3,8"},
            "--filters must be layers from 3 (the injection layer) to 7 (two layers before the exit) (got 3,8)",
        ),
    ],
)
def test_layers_that_contradict_each_other_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        fixed_of(options(**given), TWELVE)
    assert str(caught.value) == message


def test_probes_follow_the_depth_where_the_user_says_nothing() -> None:
    probes = probes_of(options(), TWELVE)
    assert probes.windows == (2, 3) and probes.shares == (1, 0.9, 0.5) and probes.top == pytest.approx(1 / 9)
    assert probes_of(options(windows="1,4"), TWELVE).windows == (1, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"windows": "12"}, "--windows must be less than the model's 12 layers (got 12)"),
        ({"top": 0.0}, "--top must be above 0 and at most 100 percent (got 0)"),
        ({"shares": "0.9,0.5"}, "--shares takes numbers above 0 and up to 1, with 1 among them, such as 1,0.9,0.5"),
        ({"shares": "1,x"}, "--shares takes numbers above 0 and up to 1"),
    ],
)
def test_probes_that_cannot_be_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        probes_of(options(**given), TWELVE)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("source", "name"),
    [("mini:vanilla", "mini-vanilla"), ("runs/own/final/", "final"), ("llava-hf/llava-1.5-7b-hf", "llava-1.5-7b-hf")],
)
def test_a_results_folder_is_named_after_the_model(source: str, name: str) -> None:
    assert model_name(source) == name


def test_progress_counts_samples_of_an_earlier_run_apart() -> None:
    said: list[str] = []
    tell = telling(10, said.append)
    tell("gqa", 4)
    tell("gqa", 3)
    assert said[0] == "gqa: 4 samples of an earlier run"
    assert said[1].startswith("gqa: 7 of 10, ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--model", "mini:vanilla", "--task", "gqaa"], "--task gqaa: unknown task. Did you mean 'gqa'?"),
        (["--model", "mini:vanila"], "--model: model 'mini:vanila': unknown. Did you mean 'mini:vanilla'?"),
        (["--model", "nowhere"], "--model: model 'nowhere': no such folder"),
        (["--model", "my model"], "--model: "),
        (["--model", "mini:vanilla", "--device", "gpu"], "--device: "),
        (["--model", "mini:vanilla", "--data", ""], "--data: "),
    ],
)
def test_a_problem_names_the_option_and_not_a_place_in_a_matrix(
    line: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", *line, "--quiet"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(message) and "analyze:" not in told


def test_an_analysis_does_not_write_over_a_committed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --out it goes to runs/, which git ignores."""
    asked = {}

    def check(*_: object, out: Path, **__: object) -> None:
        asked["out"] = out
        raise UserError("enough")

    monkeypatch.setattr("evals.matrix.validate.check", check)
    assert main(["analyze", "--model", "mini:vanilla", "--quiet"]) == 2
    assert asked["out"] == Path("runs/analysis/mini-vanilla")


@pytest.mark.parametrize("name", ["samples", "figures", "search"])
def test_a_linked_folder_is_refused_before_the_model_is_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def loaded(*parts: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("evals.run.engine.load", loaded)
    (tmp_path / "mine").mkdir()
    (tmp_path / name).symlink_to("mine")
    assert main(["analyze", "--model", "mini:vanilla", "--samples", "4", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path / name}: a link to another folder" in capsys.readouterr().err
    assert not list((tmp_path / "mine").iterdir())
