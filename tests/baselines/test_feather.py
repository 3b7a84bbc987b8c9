"""FEATHER's score, grid and counts; its choice is compared with a slow rule in test_every_method.py."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from baselines.even_grid import grid_of, in_grid
from baselines.feather import Feather
from hidrop.budget import solve
from hidrop.geometry import PRESETS
from hidrop.methods import build
from hidrop.reducer import BudgetError
from hidrop.runtime import reduce
from tests.hidrop.backbones.families import batch_of, model_of

LLAVA = PRESETS["llava-1.5-7b"]


def second_cut(view: Any) -> Any:
    """At the first one the grid has a say as well."""
    return replace(view, cut=replace(view.cut, place=1))


def test_worked_example_of_the_score(view_of_logits):
    """FastV's example, each head's softmax over the visual tokens 1..4 alone."""
    rows = [[[1.0, 0.2, 0.9, -0.5, 0.4, 0.3], [0.5, 0.1, -0.3, 0.0, 1.2, 0.6]]]
    score = Feather().score(second_cut(view_of_logits(rows, queries=[5], visual=[1, 2, 3, 4])))
    assert score[0].tolist() == pytest.approx([0.195286, 0.272864, 0.133562, 0.398288], abs=1e-6)


def test_text_changes_no_score_and_rope_does_not_either(view_of_logits):
    """FastV's would: the share of a head that looks at the text counts less."""
    rows = [[[1.0, 0.2, 0.9, -0.5, 0.4, 0.3], [0.5, 0.1, -0.3, 0.0, 1.2, 0.6]]]
    louder = [[[9.0, 0.2, 0.9, -0.5, 0.4, 7.0], [0.5, 0.1, -0.3, 0.0, 1.2, 0.6]]]
    views = [view_of_logits(logits, queries=[5], visual=[1, 2, 3, 4]) for logits in (rows, louder, rows)]
    turned = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(1))
    views[2] = replace(views[2], rope=lambda layer: (turned.cos(), turned.sin()))
    scores = [Feather().score(second_cut(view)) for view in views]
    torch.testing.assert_close(scores[1], scores[0])
    torch.testing.assert_close(scores[2], scores[0])


def grid_places(rows: int, columns: int, stride: int = 3) -> list[int]:
    size = rows * columns
    table = SimpleNamespace(frame_inside_BV=torch.arange(size)[None], columns_BV=torch.full((1, size), columns))
    everything = torch.ones(1, size, dtype=torch.bool)
    return in_grid(table, everything, stride)[0].nonzero()[:, 0].tolist()  # type: ignore[arg-type]


def test_the_grid_is_every_third_token_of_every_third_row():
    assert grid_places(4, 5) == [0, 3, 15, 18]
    assert grid_places(1, 7) == [0, 3, 6]
    assert grid_places(3, 3, stride=2) == [0, 2, 6, 8]
    assert grid_places(2, 2, stride=1) == [0, 1, 2, 3]


@pytest.mark.parametrize("side", [1, 3, 4, 16, 24, 27])
@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_the_plan_counts_the_grid_of_a_square_image(side, stride):
    assert grid_of(side * side, stride) == len(grid_places(side, side, stride))


def test_the_default_has_the_shares_of_the_code_and_the_whole_grid():
    assert Feather().plan(LLAVA).entering == (*(576,) * 8, *(172 + 64,) * 8, *(51,) * 16)
    assert Feather().plan(LLAVA).average_tokens == 228.5
    assert build("feather", {"published": "released"}) == Feather(layers=(8, 16), union="released")
    assert Feather(union="released").plan(LLAVA) == Feather().plan(LLAVA)
    assert Feather().plan(PRESETS["llava-1.5-13b"]).entering.index(236) == 10


def test_images_of_any_shape_have_no_smaller_bound_than_all_of_their_tokens():
    """1 x 18 tokens have 6 in the grid, where a square of as many has about 2."""
    model = model_of("qwen2_vl")
    released = Feather(layers=(1, 3), union="released")
    with reduce(model, released, reference_tokens=18) as reduction, torch.no_grad():
        model(**batch_of("qwen2_vl", [[(28, 500)]]))
        assert reduction.plan.entering == (18, 18, 18, 1, 1, 1)
        first, second = reduction.kept
    assert 6 <= len(first.rows[0]) <= 6 + 5
    assert {0, 3, 6, 9, 12, 15} <= {*first.rows[0]}
    assert len(second.rows[0]) == 1


@pytest.mark.parametrize("seed", range(4))
def test_the_default_keeps_the_released_union_and_the_next_best(seed, tiny_llava, prompt, pixels):
    """The union: 4 of the grid {0, 3, 12, 15} and the best 4; both at the same places for any seed."""
    model, found = tiny_llava(kv_heads=2, seed=seed), {}
    for union in ("filled", "released"):
        with reduce(model, Feather(union=union)) as reduction, torch.no_grad():
            model(input_ids=prompt(seed=seed), pixel_values=pixels(seed=seed))
            found[union] = {*reduction.kept[0].rows[0]}
    assert {0, 3, 12, 15} <= found["released"] <= found["filled"]
    assert len(found["filled"]) == 8


@pytest.mark.parametrize(
    ("layers", "budget", "counts"), [(None, 228, (235, 51)), (None, 192, (160, 16)), ([4, 8], 128, (213, 39))]
)
def test_a_budget_solves_the_ratio_at_the_layers(layers, budget, counts):
    method = solve("feather", {"layers": layers} if layers else {}, budget, LLAVA)
    plan = method.plan(LLAVA)
    assert tuple(sorted({*plan.entering} - {576}, reverse=True)) == counts
    assert plan.average_tokens == pytest.approx(budget, abs=0.8)


@pytest.mark.parametrize("budget", [48, 64, 96, 128, 160])
def test_a_budget_that_the_layers_cannot_reach_names_layers_that_can(budget):
    with pytest.raises(BudgetError, match=r"it reaches 160.00..576.00; move the cuts earlier") as told:
        solve("feather", {}, budget, LLAVA)
    numbers = re.search(r"layers: \[(\d+), (\d+)\]", str(told.value))
    assert numbers is not None
    layers = [int(number) for number in numbers.groups()]
    assert solve("feather", {"layers": layers}, budget, LLAVA).plan(LLAVA).average_tokens == pytest.approx(budget, 0.02)


def test_no_layers_are_named_where_none_can():
    with pytest.raises(BudgetError, match=r"it reaches 160.00..576.00$"):
        solve("feather", {}, 20, LLAVA)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(ratios=(1.5, 0.2)), "ratios are shares between 0 and 1"),
        (dict(stride=0), "stride and layers at least 1.*stride=0"),
        (dict(layers=(0, 4)), r"stride and layers at least 1.*layers=\(0, 4\)"),
        (dict(layers=(8, 8)), "ascending order of layers"),
        (dict(ratios=(0.1, 0.5)), "keep 288 after layer 16: only 121"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Feather(**fields).plan(LLAVA)


def test_a_budget_is_refused_with_ratios_and_with_counts_by_the_sample():
    for fields in ({"ratio": 0.3}, {"union": "released"}):
        with pytest.raises(BudgetError, match="a budget decides ratio, and union: filled counts it; give layers"):
            solve("feather", fields, 200, LLAVA)
