"""Published settings in a matrix: as a method, and as the method that a model was trained with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from baselines.fastv import FastV
from evals.matrix.resolve import resolve
from evals.matrix.schema import Matrix, load_matrix
from hidrop import build
from hidrop.errors import UserError
from hidrop.geometry import PRESETS, Geometry
from hidrop.reducer import Reducer

SMALL = Geometry(12, 128, 344, 4, 4, 32, 600, 100)
ROOT = Path(__file__).parents[3]
BUNDLED, PAGE = ROOT / "evals/matrix/bundled", ROOT / "docs/methods/README.md"


def matrix(folder: Path, methods: dict[str, Any], trained_with: dict[str, Any] | None = None) -> Matrix:
    model = {
        "source": "nowhere",
        "geometry": "llava-1.5-7b",
        **({"trained_with": trained_with} if trained_with else {}),
    }
    path = folder / "own.yaml"
    tasks = {"gqa": {"data": "mini"}}
    path.write_text(
        yaml.safe_dump({"protocol": "lmms-eval", "models": {"a": model}, "methods": methods, "tasks": tasks})
    )
    return load_matrix(path)


def plans(found: Matrix) -> tuple[dict[str, Reducer], list[str]]:
    """The methods of the rows, as `plan` resolves them without files."""
    rows, problems = resolve(found, found.cells(), trust_presets=True)
    return {label: row.reducer for (_, label), row in rows.items()}, problems


def test_a_matrix_names_settings_as_texts_or_numbers(tmp_path):
    named = {"fastv": {"published": "k2-50%"}, "wide": {"name": "hidrop", "published": 64, "ties": "released"}}
    found, problems = plans(matrix(tmp_path, named))
    assert problems == [] and found["fastv"] == FastV(keep=288)
    assert found["wide"] == build("hidrop", {"published": "64", "ties": "released"})


def test_a_member_of_a_stack_is_named_so_too(tmp_path):
    duet = {"stack": [{"visionzip": {"published": 64}}, {"pdrop": {"layers": [16], "ratios": [0.5]}}]}
    found, problems = plans(matrix(tmp_path, {"duet": {"name": "stack", **duet}}))
    assert problems == []
    assert found["duet"].plan(PRESETS["llava-1.5-7b"]).entering == (64,) * 16 + (32,) * 16


def test_the_methods_of_the_documentation_are_valid(tmp_path):
    [example] = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    methods = yaml.safe_load(example)["methods"]
    found, problems = plans(matrix(tmp_path, methods))
    assert problems == [] and set(found) == set(methods)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"published": "k2-50"}, "methods.fastv.published: fastv has no setting 'k2-50'. Did you mean 'k2-50%'"),
        ({"published": "k2-50%", "keep": 3}, "methods.fastv.published: k2-50% already sets keep; give one of the two"),
        ({"published": "k2-50%", "budget": 64}, "methods.fastv.published: k2-50% has a budget already"),
        ({"published": ["k2-50%"]}, r"methods.fastv.published: the name of one setting, not \['k2-50%'\]"),
        ({"publised": "k2-50%"}, "methods.fastv.publised: unknown field. Did you mean 'published'"),
        ({}, "methods.fastv: keep missing, or give a budget"),
    ],
)
def test_a_mistake_is_named_with_its_place_before_any_model(tmp_path, entry, message):
    with pytest.raises(UserError, match=message):
        matrix(tmp_path, {"fastv": entry})


def test_a_setting_for_models_of_other_sizes_is_refused(tmp_path):
    found = matrix(tmp_path, {"fastv": {"published": "k5-90%"}, "vanilla": {}})
    _, [problem] = plans(found)
    assert "own.yaml: methods.fastv on a: fastv: published: k5-90% is a setting for llava-1.5-13b (40 layers" in problem


def test_a_model_may_be_trained_with_a_setting(tmp_path):
    found = matrix(tmp_path, {"own": {"name": "checkpoint"}}, {"name": "hidrop", "published": 48})
    rows, problems = resolve(found, found.cells(), trust_presets=True)
    assert problems == []
    [row] = rows.values()
    assert row.trained and row.plan.average_tokens == 48


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"published": 49}, "models.a.trained_with.published: hidrop has no setting '49'. It has: 80, 64, 48, 48-c1"),
        ({"published": 48, "exit": 9}, "models.a.trained_with.published: 48 already sets exit"),
    ],
)
def test_a_mistake_in_trained_with_is_named_with_its_place(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        matrix(tmp_path, {"vanilla": {}}, {"name": "hidrop", **fields})


@pytest.mark.parametrize("trust", [True, False])
def test_a_model_of_other_sizes_was_not_trained_with_a_setting(tmp_path, trust):
    """Said of the preset where the files are not there, and of the files where they are."""
    found = matrix(tmp_path, {"vanilla": {}}, {"name": "fastv", "published": "k5-90%"})
    _, problems = resolve(found, found.cells(), trust_presets=trust)
    place = "own.yaml: models.a.trained_with: fastv: published: k5-90% is a setting for llava-1.5-13b"
    assert [line for line in problems if line.startswith(place) and "32 layers and 576" in line]
    _, problems = resolve(found, found.cells(), peek=lambda source: (SMALL, None))
    assert [line for line in problems if line.startswith(place) and "12 layers and 100" in line]


@pytest.mark.parametrize("tokens", [80, 64, 48])
def test_the_papers_matrix_says_the_same_as_the_published_setting(tokens):
    models = load_matrix(BUNDLED / "paper.yaml").models
    stated = models[f"hidrop-7b-{tokens}"].trained_with
    assert stated is not None
    assert build(stated.name, stated.params) == build("hidrop", {"published": tokens})
