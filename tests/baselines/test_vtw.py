from __future__ import annotations

import pytest

from baselines.vtw import VTW
from hidrop.budget import solve
from hidrop.geometry import PRESETS
from hidrop.methods import build
from hidrop.reducer import BudgetError

LLAVA = PRESETS["llava-1.5-7b"]


def test_the_published_setting_is_fifteen_layers_with_the_whole_image():
    method = build("vtw", {"published": "7b"})
    assert method == VTW(exit=16)
    assert method.plan(LLAVA).entering == (*(576,) * 15, *(0,) * 17)
    assert method.plan(LLAVA).average_tokens == 270


@pytest.mark.parametrize(
    ("budget", "exit_", "average"), [(270, 16, 270), (192, 12, 198), (128, 8, 126), (64, 5, 72), (550, 32, 558)]
)
def test_a_budget_becomes_the_nearest_layer(budget, exit_, average):
    method = solve("vtw", {}, budget, LLAVA)
    assert method == VTW(exit_)
    assert method.plan(LLAVA).average_tokens == average


def test_positions_stay_as_they_are_with_a_budget():
    assert solve("vtw", {"positions": "compacted"}, 72, LLAVA) == VTW(5, positions="compacted")


@pytest.mark.parametrize("budget", [8, 570])
def test_a_budget_outside_of_the_layers_is_refused(budget):
    with pytest.raises(BudgetError, match="it reaches 18.00..558.00"):
        solve("vtw", {}, budget, LLAVA)


@pytest.mark.parametrize("exit_", [1, 33])
def test_a_layer_outside_of_the_decoder_is_named(exit_):
    with pytest.raises(ValueError, match=rf"exit: layer {exit_} must be in 2..32"):
        VTW(exit_).plan(LLAVA)
