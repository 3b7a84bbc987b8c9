"""Options of analyze: what they mean for a model of 12 layers, and which of them contradict each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

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
