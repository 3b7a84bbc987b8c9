from __future__ import annotations

import itertools

import pytest

from hidrop.geometry import PRESETS, Geometry
from hidrop.plan import Cut, Schedule

LLAVA = PRESETS["llava-1.5-7b"]
SMALL = Geometry(layers=6, hidden=32, intermediate=64, heads=4, kv_heads=2, head_dim=8, vocab=100, visual_tokens=16)


def test_no_schedule_keeps_everything():
    plan = Schedule().plan(LLAVA)
    assert plan.entering == (576,) * 32
    assert plan.average_tokens == 576
    assert plan.share == 1


def test_vanilla_costs_what_the_papers_say():
    assert Schedule().plan(LLAVA).paper_macs() == pytest.approx(3.82e12, rel=2e-3)


def test_a_cut_takes_effect_in_the_layer_after_it():
    plan = Schedule(cuts=(Cut(2, 5), Cut(4, 3, merge=1))).plan(SMALL)
    assert plan.entering == (16, 16, 5, 5, 4, 4)
    assert plan.kept == 4


def test_injection_and_exit_bound_the_visual_layers():
    plan = Schedule(inject=3, cuts=(Cut(3, 5),), exit=6).plan(SMALL)
    assert plan.entering == (0, 0, 16, 5, 5, 0)
    assert plan.kept == 5
    assert Schedule(cuts=(Cut(1, 3), Cut(2, 0))).plan(SMALL).kept == 0


def test_a_cut_right_before_injection_cuts_on_the_way_in():
    assert Schedule(inject=3, cuts=(Cut(2, 5),)).plan(SMALL).entering == (0, 0, 5, 5, 5, 5)
    assert Schedule(cuts=(Cut(0, 5),)).plan(SMALL).entering == (5,) * 6


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule(inject=0), "inject: layer 0"),
        (Schedule(inject=7), r"inject: layer 7 .* 1\.\.6"),
        (Schedule(inject=3, exit=3), r"exit: layer 3 .* 4\.\.6"),
        (Schedule(exit=7), "exit: layer 7"),
        (Schedule(cuts=(Cut(6, 5),)), "cut after layer 6"),
        (Schedule(inject=4, cuts=(Cut(2, 5),)), "cut after layer 2"),
        (Schedule(cuts=(Cut(4, 5),), exit=5), "cut after layer 4"),
        (Schedule(cuts=(Cut(3, 5), Cut(2, 4))), "ascending"),
        (Schedule(cuts=(Cut(2, 17),)), "keep 17 .* only 16"),
        (Schedule(cuts=(Cut(2, 5), Cut(3, 4, merge=2))), "keep 6 .* only 5"),
        (Schedule(cuts=(Cut(2, -1),)), "keep -1"),
    ],
)
def test_an_impossible_schedule_says_what_is_possible(schedule, message):
    with pytest.raises(ValueError, match=message):
        schedule.plan(SMALL)


def test_a_scaled_schedule_keeps_the_shares():
    schedule = Schedule(inject=2, cuts=(Cut(2, 8), Cut(3, 1)), exit=6)
    assert schedule.scaled(SMALL, 32).plan(SMALL.with_visual_tokens(32)).entering == (0, 32, 16, 2, 2, 0)
    assert schedule.scaled(SMALL, 5).plan(SMALL.with_visual_tokens(5)).entering == (0, 5, 2, 1, 1, 0)
    assert schedule.scaled(SMALL, 0).plan(SMALL.with_visual_tokens(0)).entering == (0,) * 6
    assert schedule.scaled(SMALL, 16) is schedule


def test_any_number_of_visual_tokens_has_a_scaled_schedule_that_fits():
    for first, second, merge in itertools.product(range(1, 9), range(1, 6), range(4)):
        schedule = Schedule(cuts=(Cut(1, 16 - first, merge=min(merge, first)), Cut(3, second, merge=merge)))
        for count in range(50):
            entering = schedule.scaled(SMALL, count).plan(SMALL.with_visual_tokens(count)).entering
            assert list(entering) == sorted(entering, reverse=True)
            assert (entering[-1] > 0) == (count > 0)


def test_kv_bytes_and_flops_are_those_of_a_plain_count():
    plan = Schedule(cuts=(Cut(3, 4),)).plan(SMALL)
    assert plan.kv_bytes(10, element_bytes=2) == 2 * 2 * 2 * 8 * (3 * 26 + 3 * 14)
    one = Schedule().plan(Geometry(1, 32, 64, 4, 2, 8, 100, visual_tokens=3))
    linear = 2 * 5 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)
    assert one.flops(2, causal=False) == linear + 2 * 2 * 4 * 8 * 5 * 5
    assert one.flops(2) == linear + 2 * 2 * 4 * 8 * 15
