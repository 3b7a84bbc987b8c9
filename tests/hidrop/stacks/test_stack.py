"""Stacks: what they refuse, how members count, and budgets. What they do is in tests/baselines/test_every_method.py."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch

from hidrop import build, solve
from hidrop.geometry import PRESETS
from hidrop.method_source import method_digest
from hidrop.methods import build_found
from hidrop.reducer import BudgetError
from hidrop.runtime import reduce
from tests.baselines.slow_rules import grid

LLAVA = PRESETS["llava-1.5-7b"]
ZIP = {"visionzip": {"dominant": 270, "contextual": 30}}
HIDROP = {"hidrop": {"inject": 9, "filters": [10, 14], "keep": [60, 5], "exit": 25}}


def stack(*members: Any, **fields: Any) -> Any:
    return build("stack", {"stack": list(members), **fields})


def test_counts_and_shares_are_of_what_the_members_before_have_left():
    duet = stack(ZIP, {"pdrop": {"layers": [16, 24], "ratios": [0.5, 0.1]}}).on(LLAVA)
    assert duet.plan(LLAVA).entering == (300,) * 16 + (150,) * 8 + (30,) * 8
    # A prompt with two images has twice as many of everything, each image by itself.
    assert duet.plan(LLAVA, 1152).entering == (600,) * 16 + (300,) * 8 + (60,) * 8


def test_what_happens_before_the_decoder_happens_when_the_tokens_enter():
    late = stack({"divprune": {"keep": 100}}, HIDROP, positions="persistent")
    assert late.plan(LLAVA).entering == (0,) * 8 + (100,) * 2 + (60,) * 4 + (5,) * 10 + (0,) * 8


def test_positions_are_those_that_the_members_agree_on():
    pdrop = {"layers": [16], "ratios": [0.5]}
    assert stack(ZIP, {"pdrop": pdrop}).on(LLAVA).positions == "compacted"
    assert stack(ZIP, {"fastv": {"keep": 64}}).on(LLAVA).positions == "entry"
    assert stack({"fastv": {"keep": 64}}, {"random": {"layer": 3, "keep": 9}}).on(LLAVA).positions == "persistent"
    assert stack(ZIP, {"fastv": {"keep": 64}}, positions="persistent").on(LLAVA).positions == "persistent"
    with pytest.raises(ValueError, match=r"members differ \(fastv: persistent, pdrop: compacted\); state positions"):
        stack({"fastv": {"keep": 64}}, {"pdrop": pdrop}).on(LLAVA)
    with pytest.raises(
        ValueError, match="renumbered before the decoder, and enter it late; write positions: persistent"
    ):
        stack(ZIP, HIDROP).on(LLAVA)
    # The exit has positions as well: VTW keeps them, unless it says otherwise or renumbering goes on before it.
    assert stack(ZIP, {"vtw": {"exit": 16}}).on(LLAVA).positions == "entry"
    assert stack(ZIP, {"vtw": {"exit": 16, "positions": "compacted"}}).on(LLAVA).positions == "compacted"
    assert stack({"pdrop": pdrop}, {"vtw": {"exit": 25}}).on(LLAVA).positions == "compacted"
    with pytest.raises(ValueError, match="members differ"):
        stack({"fastv": {"keep": 64}}, {"vtw": {"exit": 16, "positions": "compacted"}}).on(LLAVA)
    three = PRESETS["qwen2.5-vl-7b"].counted(1296)
    assert stack(ZIP, {"pdrop": pdrop}).on(three).positions == "persistent"
    with pytest.raises(ValueError, match="positions: entry has no meaning where a position is 3 numbers"):
        stack(ZIP, {"pdrop": pdrop}, positions="entry").on(three)


SMALL = {"visionzip": {"dominant": 30, "contextual": 4}}
FASTV, PDROP = {"fastv": {"keep": 64}}, {"pdrop": {"layers": [4, 8], "ratios": [0.5, 0.25]}}
ORDERS: dict[str, tuple[list[Any], str]] = {
    "tower last, and too large": ([FASTV, ZIP], "visionzip works in the vision tower: put it before fastv"),
    "tower last": ([FASTV, SMALL], "visionzip works in the vision tower: put it before fastv"),
    "two in the tower": (
        [ZIP, {"more": {"name": "visionzip", "dominant": 54, "contextual": 10}}],
        "visionzip and more both choose in the vision tower: use one of them",
    ),
    "layers the wrong way": (
        [PDROP, FASTV], "fastv cuts after layer 2, but pdrop, which stands before it, after layer 8: write"
    ),
    "the same layer": ([FASTV, {"random": {"keep": 5}}], "fastv and random both cut after layer 2: move one of them"),
    "before they enter": ([FASTV, HIDROP], "fastv cuts after layer 2, but the tokens enter before layer 9"),
    "after they left": (
        [HIDROP, {"pdrop": {"layers": [26], "ratios": [0.5]}}], "pdrop cuts after layer 26, but the tokens leave"
    ),
    "two exits": (
        [HIDROP, {"again": {"name": "hidrop", "inject": 1, "filters": [20], "keep": [2], "exit": 30}}],
        r"visual tokens leave once, but two members say when: hidrop \(before layer 25\) and again \(before layer 30\)",
    ),
    "two entries": (
        [{"again": {"name": "hidrop", "inject": 2, "filters": [3], "keep": [70], "exit": 9}}, HIDROP],
        "visual tokens enter once",
    ),
    "a grid after a cut": ([ZIP, {"uniform": {"keep": 9}}], "uniform needs whole images, but visionzip cuts them"),
    "input after merging": (
        [{"pool": {"keep": 64}}, {"sparsevlm": {"label": 64}}], "sparsevlm looks at the tokens before the decoder"
    ),
    "input that is gone": (
        [{"dart": {"variant": "embedding", "keep": 60}}, HIDROP], "dart chooses by the decoder's input, but"
    ),
    "a member's own mistake": ([ZIP, {"fastv": {"keep": 900}}], "fastv: keep 900 after layer 2: only 300"),
}  # fmt: skip


@pytest.mark.parametrize("case", ORDERS)
def test_an_order_that_cannot_be_is_refused_in_words(case):
    members, message = ORDERS[case]
    with pytest.raises(ValueError, match=message):
        stack(*members).plan(LLAVA)


WRITTEN: dict[str, tuple[Any, str]] = {
    "one method": ([FASTV], "write a list of at least two methods"),
    "no list": ("fastv", "write a list of at least two methods"),
    "no mapping": ([FASTV, 3], "member 2 is not of the form METHOD: {FIELDS}: 3"),
    "two keys": ([{"fastv": {}, "pdrop": {}}, FASTV], "member 1 is not of the form"),
    "unknown": ([FASTV, {"pdrp": {}}], "unknown method 'pdrp'. Did you mean 'pdrop'"),
    "a field": ([FASTV, {"pdrop": {"layrs": [2]}}], "pdrop: layrs: unknown field of pdrop. Did you mean 'layers'"),
    "a type": (
        [{"fastv": {"keep": "many"}}, PDROP],
        "^fastv: keep: .* a valid integer, not 'many'$",
    ),
    "missing": ([{"fastv": {}}, PDROP], "^fastv: keep missing$"),
    "twice": ([FASTV, {"fastv": {"keep": 4, "layer": 5}}], "fastv is there twice; give one of them another label"),
    "a budget": ([{"fastv": {"budget": 64}}, PDROP], "fastv: budget: it belongs to the whole stack"),
    "a stack": ([FASTV, {"inner": {"name": "stack", "stack": [FASTV, PDROP]}}], "inner: a stack in a stack"),
    "by sample": ([FASTV, {"sparsevlm": {"version": "1.0"}}], "sparsevlm: its counts depend on the sample"),
    "rechosen": ([{"fastv": {"keep": 4, "rechosen": True}}, PDROP], "fastv: rechosen: a stack chooses once"),
    "two deepstacks": (
        [
            {"hidrop": {**HIDROP["hidrop"], "deepstack": "drop"}},
            {"more": {**HIDROP["hidrop"], "name": "hidrop", "deepstack": "shift"}},
        ],
        r"deepstack: the members differ \(drop, shift\)",
    ),
    "soft": ([ZIP, {"hidrop": {**HIDROP["hidrop"], "topk": "ste"}}], "hidrop: topk: ste: in a stack the choice has no"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_what_is_written_wrongly_is_named_with_its_member(case):
    members, message = WRITTEN[case]
    with pytest.raises(ValueError, match=message):
        build("stack", {"stack": members})


@pytest.mark.parametrize(("over", "average"), [("visionzip", 64), ("pdrop", 64), ("visionzip", 192), ("pdrop", 100)])
def test_a_budget_is_solved_over_the_named_member(over, average):
    members = [ZIP, {"pdrop": {"layers": [8, 16]}}] if over == "pdrop" else [{"visionzip": {}}, {"pdrop": {}}]
    if over == "pdrop":
        members[0] = {"visionzip": {"dominant": 100, "contextual": 20}}
    found = solve("stack", {"stack": members, "over": over}, average, LLAVA)
    assert found.plan(LLAVA).average_tokens == pytest.approx(average, abs=0.6)
    assert found.over is None


@pytest.mark.parametrize(
    ("over", "average", "message"),
    [
        ("divprune", 40, "divprune: keep: the budget makes it 85, not 5"),
        ("vtw", 3, "vtw: exit: the budget makes it 20"),
    ],
)
def test_a_budget_does_not_replace_a_count_that_is_given(over, average, message):
    members = [{"divprune": {"keep": 5}}, {"vtw": {"exit": 16}}]
    with pytest.raises(ValueError, match=message):
        solve("stack", {"stack": members, "over": over}, average, LLAVA)


def test_a_budget_finds_the_only_member_that_is_left_open():
    found = solve("stack", {"stack": [{"divprune": None}, PDROP], "positions": "compacted"}, "11%", LLAVA)
    assert found.plan(LLAVA).average_tokens == pytest.approx(0.11 * 576, abs=0.6)
    kept = solve("stack", {"stack": ["divprune", PDROP], "positions": "compacted"}, 32, LLAVA, "kept")
    assert kept.plan(LLAVA).kept == 32


def test_a_budget_keeps_what_a_later_member_needs():
    """With 60 tokens for FastV, VisionZip cannot have fewer, whatever the budget would allow it alone."""
    members = [{"visionzip": {}}, {"fastv": {"layer": 2, "keep": 60}}, {"vtw": {"exit": 20}}]
    found = solve("stack", {"stack": members}, 50, LLAVA)
    assert found.plan(LLAVA).entering[2:19] == (60,) * 17 and found.plan(LLAVA).average_tokens == pytest.approx(
        50, abs=0.1
    )
    with pytest.raises(BudgetError, match="with visionzip it reaches 35.6"):
        solve("stack", {"stack": members}, 20, LLAVA)


def test_a_budget_that_cannot_be_solved_says_why():
    with pytest.raises(ValueError, match="over: name the member that the budget is solved for: fastv, pdrop"):
        solve("stack", {"stack": [FASTV, PDROP]}, 64, LLAVA)
    with pytest.raises(ValueError, match="over: no member 'fast'; there are fastv, pdrop"):
        solve("stack", {"stack": [FASTV, PDROP], "over": "fast"}, 64, LLAVA)
    with pytest.raises(BudgetError, match="out of reach: with fastv it reaches"):
        solve("stack", {"stack": [FASTV, {"random": {"keep": 1, "layer": 20}}], "over": "fastv"}, 500, LLAVA)
    with pytest.raises(ValueError, match="over: it names the member that a budget is solved for; give a budget"):
        stack(FASTV, PDROP, over="fastv")


def test_a_number_of_tokens_needs_the_image_that_it_is_of_in_a_member_as_well():
    model_sizes = PRESETS["qwen2.5-vl-7b"]
    with pytest.raises(ValueError, match="stack: fastv: keep: a number of tokens has no meaning where each image has"):
        from hidrop.budget import check_absolute
        from hidrop.stacks.stack import Stack

        check_absolute(Stack, {"stack": [FASTV, PDROP]}, None, model_sizes)


def test_it_is_read_back_as_it_was_written_and_each_member_belongs_to_its_source():
    made = stack(ZIP, {"late": {"name": "pdrop", "layers": [16], "ratios": [0.5]}}).on(LLAVA)
    assert build_found({"name": "stack", **asdict(made)}) == made
    digests = [method_digest(one) for one in (made, stack(ZIP, FASTV), stack({"divprune": {"keep": 9}}, FASTV))]
    assert len(set(digests)) == 3 and method_digest(build("fastv", {"keep": 4})) not in digests


def test_downsample_gives_its_grid_to_the_next_member(tiny_llava, prompt, pixels):
    """The evenly spread 4 of the 9 tokens of an image at 3 x 3 patches are those of a 3 x 3 grid."""
    model = tiny_llava()
    small = stack({"downsample": {"side": 3}}, {"uniform": {"keep": 4}}, positions="persistent")
    with reduce(model, small) as reduction, torch.no_grad():
        model(input_ids=prompt(3, 6), pixel_values=pixels())
        (_, kept) = (cut.rows[0] for cut in reduction.kept)
    middles = []
    for cell in grid(3, 4):
        ys, xs = sorted({n // 3 for n in cell}), sorted({n % 3 for n in cell})
        middles.append(ys[(len(ys) - 1) // 2] * 3 + xs[(len(xs) - 1) // 2])
    assert kept == tuple(sorted(middles))
    pool = stack({"downsample": {"side": 3}}, {"pool": {"keep": 9}})
    with torch.no_grad():
        with reduce(model, pool):
            pooled = model(input_ids=prompt(3, 6), pixel_values=pixels()).logits[:, -1]
        with reduce(model, build("downsample", {"side": 3})):
            alone = model(input_ids=prompt(3, 6), pixel_values=pixels()).logits[:, -1]
    torch.testing.assert_close(pooled, alone, atol=1e-5, rtol=1e-5)  # nine cells of nine tokens are the tokens


def test_a_method_in_the_tower_sees_the_smaller_image(tiny_llava, prompt, pixels):
    """At the image's own size the stack is the method alone; at a smaller one it has fewer tokens to choose from."""
    model, zip_ = tiny_llava(), {"visionzip": {"dominant": 4, "contextual": 2}}
    inputs = {"input_ids": prompt(3, 6), "pixel_values": pixels()}

    def last(method: Any) -> torch.Tensor:
        with reduce(model, method) as reduction, torch.no_grad():
            logits = model(**inputs).logits[:, -1]
        assert reduction.trace.entering == (6,) * 6
        return logits

    alone = last(build("visionzip", zip_["visionzip"]))
    torch.testing.assert_close(last(stack({"downsample": {"side": 4}}, zip_)), alone, atol=1e-4, rtol=1e-4)
    assert (last(stack({"downsample": {"side": 3}}, zip_)) - alone).abs().max() > 1e-3


def test_a_label_is_no_part_of_the_identity():
    plain, labelled = stack(ZIP, FASTV), stack({"zip": {"name": "visionzip", **ZIP["visionzip"]}}, FASTV)
    assert plain.identity == labelled.identity and plain != labelled
    assert plain.identity != stack(ZIP, {"fastv": {"keep": 63}}).identity


def test_a_stack_is_captured_if_all_members_can_be_and_its_files_are_theirs(monkeypatch):
    from baselines.fastv import FastV

    made = stack(ZIP, FASTV)
    assert made.capturable
    monkeypatch.setattr(FastV, "capturable", property(lambda self: False))
    assert not made.capturable

    def missing(self: Any, backbone: Any) -> None:
        raise ValueError("my file is missing")

    monkeypatch.setattr(FastV, "check_files", missing)
    with pytest.raises(ValueError, match="fastv: my file is missing"):
        made.check_files(None)  # type: ignore[arg-type]
