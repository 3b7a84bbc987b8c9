from __future__ import annotations

import pytest

from hidrop.budget import solve
from hidrop.geometry import PRESETS
from hidrop.hidrop import HiDrop
from hidrop.reducer import BudgetError

LLAVA = PRESETS["llava-1.5-7b"]
EARLY, LATE = (10, 13, 16, 19), (10, 14, 16, 18)


@pytest.mark.parametrize(
    ("filters", "first", "average"),
    [(LATE, 87, 48.0), (LATE, 215, 64.0), (EARLY, 453, 80.03), (EARLY, 112, 48.06)],
)
def test_published_schedules_have_their_published_averages(filters, first, average):
    plan = HiDrop(inject=9, filters=filters, keep=(first, 10, 5, 1), exit=25).plan(LLAVA)
    assert round(plan.average_tokens, 2) == average


def test_the_48_token_schedule_layer_by_layer():
    entering = HiDrop(inject=9, filters=LATE, keep=(87, 10, 5, 1), exit=25).plan(LLAVA).entering
    assert entering == (0,) * 8 + (576,) * 2 + (87,) * 4 + (10,) * 2 + (5,) * 2 + (1,) * 6 + (0,) * 8


def test_the_64_token_schedule_costs_what_the_paper_says():
    plan = HiDrop(inject=9, filters=LATE, keep=(215, 10, 5, 1), exit=25).plan(LLAVA)
    assert plan.paper_macs() == pytest.approx(0.42e12, rel=5e-3)


@pytest.mark.parametrize(("filters", "average", "first"), [(LATE, 48, 87), (LATE, 64, 215), (EARLY, 80, 453)])
@pytest.mark.parametrize("keep", [None, [None, 10, 5, 1]], ids=["published tail", "given tail"])
def test_budgets_give_the_published_first_counts(filters, average, first, keep):
    params = {"inject": 9, "filters": list(filters), "exit": 25, **({"keep": keep} if keep else {})}
    assert solve("hidrop", params, average, LLAVA) == HiDrop(9, filters, (first, 10, 5, 1), 25)


def test_the_tail_scales_with_the_image():
    small = solve("hidrop", {"inject": 9, "filters": [10, 14, 16, 18], "exit": 25}, 16, LLAVA.with_visual_tokens(144))
    assert small.keep[1:] == (2, 1, 1)
    one = solve("hidrop", {"inject": 9, "filters": [10], "exit": 25}, 64, LLAVA)
    assert one.plan(LLAVA).average_tokens == pytest.approx(64, abs=0.5)


def test_a_budget_out_of_reach_names_what_is_in_reach():
    params = {"inject": 9, "filters": [10, 14, 16, 18], "exit": 25}
    with pytest.raises(BudgetError, match=r"hidrop: an average of 200 .* 38\.38\.\.109\.12"):
        solve("hidrop", params, 200, LLAVA)
    with pytest.raises(BudgetError, match=r"38\.38"):
        solve("hidrop", params, 20, LLAVA)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"filters": [10]}, "inject, exit: needed"),
        ({"inject": 9, "exit": 25, "filters": [10, 14], "keep": [87, 10]}, "null"),
        ({"inject": 9, "exit": 25, "filters": [10, 14], "keep": [None, None]}, "null"),
        ({"inject": 9, "exit": 25, "filters": [10, 11, 12, 13, 14]}, r"give keep: \[null, \.\.\.\] with 4 counts"),
        ({"inject": 9, "exit": 25, "filtres": [10]}, "Did you mean 'filters'"),
        ({"inject": 9, "exit": 25, "filters": [10, 8]}, "cut after layer 8"),
        ({"inject": 9, "exit": 40, "filters": [10]}, "exit: layer 40"),
    ],
)
def test_wrong_fields_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        solve("hidrop", params, 64, LLAVA)


def test_filters_and_counts_must_pair_up():
    with pytest.raises(ValueError, match="keep: 1 counts for 2 filters"):
        HiDrop(9, (10, 14), (87,), 25).plan(LLAVA)
