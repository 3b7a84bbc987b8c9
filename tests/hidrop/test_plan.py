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


TINY = Geometry(layers=3, hidden=8, intermediate=8, heads=1, kv_heads=1, head_dim=8, vocab=9, visual_tokens=3)


def schedules():
    """Every schedule of a tiny decoder with up to two cuts, and many that it cannot have."""
    cuts = [Cut(after, keep, merge) for after in range(-1, 4) for keep in (-1, 0, 2, 3) for merge in (-1, 0, 1)]
    pairs = itertools.product([cut for cut in cuts if cut.keep >= 0 and cut.merge >= 0], repeat=2)
    sets = [(), *((cut,) for cut in cuts), *pairs]
    return (Schedule(*parts) for parts in itertools.product(range(5), sets, (None, 0, 1, 2, 3, 4)))


def is_possible(schedule):
    """By the words of Schedule's docstring, with lists of the possible layers."""
    inside = list(range(1, TINY.layers + 1))
    leaves = schedule.exit or TINY.layers + 1
    seen_in = [layer for layer in inside if schedule.inject <= layer < leaves]  # the layers that see visual tokens
    on_the_way_in = schedule.inject - 1  # where there may be several cuts
    after = [cut.after for cut in schedule.cuts]
    once = [layer for layer in after if layer != on_the_way_in]
    counts = [TINY.visual_tokens, *(cut.keep + cut.merge for cut in schedule.cuts)]
    return (
        schedule.inject in inside
        and (schedule.exit is None or schedule.exit in inside[schedule.inject :])
        and all(layer + 1 in seen_in for layer in after)
        and after == sorted(after)
        and once == sorted(set(once))
        and all(cut.keep >= 0 and cut.merge >= 0 for cut in schedule.cuts)
        and counts == sorted(counts, reverse=True)
    )


def walked(schedule):
    """The tokens themselves, layer by layer."""
    tokens, counts = [], []
    for layer in range(TINY.layers + 1):  # 0: before the first layer
        if layer == schedule.inject - 1:
            tokens = ["visual"] * TINY.visual_tokens
        for cut in schedule.cuts:
            if cut.after == layer:
                tokens = tokens[: cut.keep] + ["merged"] * cut.merge
        if layer + 1 == schedule.exit:
            tokens = []
        counts.append(len(tokens))
    return tuple(counts[:-1])  # after layer l they enter layer l + 1


def test_every_schedule_is_refused_or_gives_the_tokens_of_a_walk_through_the_layers():
    possible = 0
    for schedule in schedules():
        if is_possible(schedule):
            assert schedule.plan(TINY).entering == walked(schedule), schedule
            possible += 1
        else:
            with pytest.raises(ValueError):
                schedule.check(TINY)
    assert possible > 100


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule(inject=7), "inject: layer 7 is not one of the decoder's layers 1..6"),
        (
            Schedule(inject=3, exit=3),
            "exit: layer 3 must be in 4..6: after inject, inside the decoder",
        ),
        (
            Schedule(inject=4, cuts=(Cut(2, 5),)),
            "cut after layer 2: visual tokens are there in layers 4..6 only",
        ),
        (
            Schedule(cuts=(Cut(4, 5),), exit=5),
            "cut after layer 4: visual tokens are there in layers 1..4 only",
        ),
        (
            Schedule(cuts=(Cut(3, 5), Cut(3, 4))),
            "cut after layer 3: cuts must be in ascending order of layers",
        ),
        (Schedule(cuts=(Cut(2, 5), Cut(3, 4, merge=2))), "keep 6 after layer 3: only 5 visual tokens are there"),
    ],
)
def test_a_message_has_the_layer_and_the_range(schedule, message):
    with pytest.raises(ValueError) as caught:
        schedule.check(SMALL)
    assert str(caught.value) == message


def test_scaled_counts_are_the_shares_rounded_down_and_at_least_one():
    for keep, merge, count in itertools.product(range(13), range(4), range(40)):
        schedule = Schedule(cuts=(Cut(1, keep, merge), Cut(2, keep // 2)))
        there, expected = count, []
        for cut in schedule.cuts:
            shares = [max(int(part * count / 16), 1 if part else 0) for part in (cut.keep, cut.merge)]
            kept = min(shares[0], there)
            merged = min(shares[1], there - kept)
            there = kept + merged
            expected.append((cut.after, kept, merged))
        found = schedule.scaled(SMALL, count)
        if count != 16:
            assert [(cut.after, cut.keep, cut.merge) for cut in found.cuts] == expected


def test_a_chosen_cut_bounds_the_later_ones():
    schedule = Schedule(inject=2, cuts=(Cut(1, 12), Cut(2, 8, merge=2), Cut(3, 6, merge=3), Cut(4, 1)), exit=6)
    same = schedule.chosen(1, Cut(2, 9))
    assert same.cuts == (Cut(1, 12), Cut(2, 9), Cut(3, 6, merge=3), Cut(4, 1))
    assert (same.inject, same.exit) == (2, 6)
    fewer = schedule.chosen(1, Cut(2, 5, merge=2))
    assert fewer.cuts == (Cut(1, 12), Cut(2, 5, merge=2), Cut(3, 6, merge=1), Cut(4, 1))
    none = schedule.chosen(0, Cut(1, 0))
    assert none.cuts == (Cut(1, 0), Cut(2, 0), Cut(3, 0), Cut(4, 0))
    last = schedule.chosen(3, Cut(4, 0, merge=1))
    assert last.cuts == (*schedule.cuts[:3], Cut(4, 0, merge=1))
    for changed in (same, fewer, none, last):
        changed.check(SMALL)


def test_a_scaled_schedule_keeps_the_shares():
    schedule = Schedule(inject=2, cuts=(Cut(2, 8), Cut(3, 1)), exit=6)
    assert schedule.scaled(SMALL, 32).plan(SMALL.with_visual_tokens(32)).entering == (0, 32, 16, 2, 2, 0)
    assert schedule.scaled(SMALL, 5).plan(SMALL.with_visual_tokens(5)).entering == (0, 5, 2, 1, 1, 0)
    assert schedule.scaled(SMALL, 0).plan(SMALL.with_visual_tokens(0)).entering == (0,) * 6
    assert schedule.scaled(SMALL, 16) is schedule


def test_images_that_are_scaled_each_by_itself_add_up():
    """Of 16 tokens 7 and then 3 + 2: of 5 tokens 2 and 1 + 1, of 3 tokens 1 and 1 + 0; of 8 tokens 3 and 1 + 1."""
    schedule = Schedule(cuts=(Cut(1, 7), Cut(3, 3, merge=2)))
    assert schedule.scaled_each(SMALL, (16, 16)).cuts == schedule.scaled(SMALL, 32).cuts
    assert schedule.scaled_each(SMALL, (5, 3)).cuts == (Cut(1, 3), Cut(3, 2, merge=1))
    assert schedule.scaled(SMALL, 8).cuts == (Cut(1, 3), Cut(3, 1, merge=1))
    assert schedule.scaled_each(SMALL, ()) == schedule.scaled(SMALL, 0)


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
