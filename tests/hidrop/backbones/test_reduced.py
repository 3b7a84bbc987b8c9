"""Reduced runs of every family against a slow reference (slow_reference.py), and the faults that it must notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from hidrop.backbones import backbone_of
from hidrop.backbones.model_inputs import Places
from hidrop.backbones.qwen2_vl import Qwen2VL
from hidrop.runtime import reduce
from hidrop.runtime.sequence import Sequence, Tokens
from tests.hidrop.backbones.families import FAMILIES, batch_of, derived, eager_of, model_of
from tests.hidrop.backbones.slow_reference import Steps, run

ATOL = 5e-5
NEW = 4
every_family = pytest.mark.parametrize("name", FAMILIES)

# Counts are of the images' own tokens: several stay, and not the first ones.
SETTINGS: dict[str, tuple[str, dict[str, Any], Steps]] = {
    "fastv after 2": ("fastv", dict(layer=2, keep=7), Steps(cuts=((2, 7),), of="this")),
    "inject 3, cuts 3 and 4, exit 6": (
        "hidrop",
        dict(inject=3, filters=[3, 4], keep=[8, 5], exit=6),
        Steps(3, ((3, 8), (4, 5)), 6),
    ),
    "inject 4, cut 4, exit 6": ("hidrop", dict(inject=4, filters=[4], keep=[6], exit=6), Steps(4, ((4, 6),), 6)),
    "inject 2, cut before it, exit 5": (
        "hidrop",
        dict(inject=2, filters=[1, 2], keep=[9, 4], exit=5),
        Steps(2, ((1, 9), (2, 4)), 5),
    ),
    "cuts after 1 and 2, exit 4": (
        "hidrop",
        dict(inject=1, filters=[1, 2], keep=[8, 6], exit=4),
        Steps(1, ((1, 8), (2, 6)), 4),
    ),
}
# Each takes up to a second: one of those with late injection and one without in every run, the others in slow ones.
QUICK = ("fastv after 2", "inject 3, cuts 3 and 4, exit 6")
every_setting = pytest.mark.parametrize(
    "setting", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in SETTINGS]
)


@contextmanager
def reduced(name: str, setting: str, tokens: int) -> Iterator[Any]:
    """The family's model with a setting whose counts are those of a prompt with so many visual tokens."""
    method, fields, _ = SETTINGS[setting]
    model = model_of(name)
    geometry = backbone_of(model).geometry
    stated = {"reference_tokens": tokens} if geometry.dynamic else {}

    def scaled(count: int) -> int:
        return count if geometry.dynamic else -(-count * geometry.visual_tokens // tokens)

    keep = fields["keep"]
    keep = [scaled(one) for one in keep] if isinstance(keep, list) else scaled(keep)
    with reduce(model, method, **stated, **{**fields, "keep": keep}) as reduction:
        yield reduction


def compared(name: str, setting: str, inputs: dict[str, torch.Tensor]) -> float:
    """The largest difference of logits, over the prompt's last token and some generated ones; kept sets are equal.

    Differences are those of logits up to 5; where logits are larger, float32 makes differences larger alike.
    The reference keeps as many tokens as the run did: test_every_backbone.py compares counts with plans.
    """
    model, eager = model_of(name), eager_of(name)
    backbone, slow = backbone_of(model), backbone_of(eager)
    tokens = int((backbone.kinds(inputs["input_ids"]) > 0).sum())
    with reduced(name, setting, tokens) as reduction:
        made = model.generate(
            **inputs,
            max_new_tokens=NEW,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            suppress_tokens=[getattr(model.config, one) for one in backbone.placeholders],
        )
        kept = [list(cut.rows[0]) for cut in reduction.kept]
    ids = made.sequences
    whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids), **derived(backbone, ids)}
    whole = explicit(name, whole, inputs)
    steps = SETTINGS[setting][2]
    cuts = tuple((after, len(ranks)) for (after, _), ranks in zip(steps.cuts, kept, strict=True))
    wanted, chosen = run(eager, slow, whole, replace(steps, cuts=cuts), answer=NEW)
    assert kept == chosen
    assert all(len(ranks) > 2 and ranks != [*range(len(ranks))] for ranks in kept), "a fault would not show"
    wanted = wanted[-NEW - 1 : -1]
    return ((torch.stack(made.logits)[:, 0] - wanted).abs().max() / (wanted.abs().max() / 5).clamp(min=1)).item()


def explicit(name: str, whole: dict[str, torch.Tensor], prompt: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With positions where transformers' own are wrong (videos of Qwen2.5-VL); test_mrope.py has them by hand."""
    if FAMILIES[name].exact or "video_grid_thw" not in prompt:
        return whole
    backbone = backbone_of(model_of(name))
    vision, ids = backbone.vision(prompt), whole["input_ids"]
    places = backbone.places(torch.ones_like(ids, dtype=torch.bool), backbone.kinds(ids), vision)
    return {**whole, "position_ids": places.position_PBS}


@every_setting
@every_family
def test_a_reduced_run_is_the_slow_reference(name: str, setting: str) -> None:
    assert compared(name, setting, batch_of(name, [[*FAMILIES[name].sizes][:2]])) < ATOL


@every_setting
@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.videos])
def test_a_reduced_run_with_an_image_and_a_video_is_the_slow_reference(name: str, setting: str) -> None:
    inputs = batch_of(name, [[*FAMILIES[name].sizes][:1]], videos=[FAMILIES[name].videos])
    assert compared(name, setting, inputs) < ATOL


@every_family
@pytest.mark.parametrize("setting", ["fastv after 2", "inject 3, cuts 3 and 4, exit 6"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_a_batch_are_as_each_alone(name: str, setting: str, side: str) -> None:
    """Rows with one image, none and two; counts are those of the prompt with two."""
    sizes = [*FAMILIES[name].sizes]
    rows = [sizes[:1], [], sizes[:2]]
    together = batch_of(name, rows, side)
    model = model_of(name)
    tokens = int((backbone_of(model).kinds(together["input_ids"]) > 0).sum(1).max())
    with torch.no_grad(), reduced(name, setting, tokens) as reduction:
        made = model(**together, logits_to_keep=1).logits[:, 0]
        kept = reduction.kept
        for number, row in enumerate(rows):
            alone = model(**batch_of(name, [row], seed=number), logits_to_keep=1).logits[0, 0]
            torch.testing.assert_close(made[number], alone, atol=2e-5, rtol=2e-5)
            if row:
                assert [cut.rows[number] for cut in kept] == [cut.rows[0] for cut in reduction.kept]


# ---- controls: each of these faults was seen in published code, and must not pass ------------------------------------


def without_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepStack is left out."""
    monkeypatch.setattr(Sequence, "levels", property(lambda self: (), lambda self, value: None), raising=False)


def first_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a cut the first tokens' levels are added, instead of those of the kept ones."""
    right = Sequence.keeping

    def keeping(self: Sequence, index_BK: torch.Tensor) -> Sequence:
        new = right(self, index_BK)
        new.levels = tuple(level[:, : index_BK.shape[1]] for level in self.levels)
        return new

    monkeypatch.setattr(Sequence, "keeping", keeping)


def lost_on_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What DeepStack adds in skipped layers is lost."""
    right = Tokens.passed
    monkeypatch.setattr(Tokens, "passed", lambda self, layers, deepstack: right(self, layers, "drop"))


def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding goes on from the number of tokens."""
    right = Qwen2VL.places

    def places(self: Qwen2VL, valid: torch.Tensor, kinds: torch.Tensor, vision: Any) -> Places:
        return Places(right(self, valid, kinds, vision).position_PBS, valid.sum(1))

    monkeypatch.setattr(Qwen2VL, "places", places)


def one_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    """All three axes have the position in time."""
    right = Qwen2VL.places

    def places(self: Qwen2VL, valid: torch.Tensor, kinds: torch.Tensor, vision: Any) -> Places:
        made = right(self, valid, kinds, vision)
        return Places(made.position_PBS[:1].expand(3, -1, -1), made.next_B)

    monkeypatch.setattr(Qwen2VL, "places", places)


@pytest.mark.parametrize(
    ("name", "setting", "fault"),
    [
        ("qwen3_vl", "cuts after 1 and 2, exit 4", without_levels),
        ("qwen3_vl", "inject 2, cut before it, exit 5", without_levels),
        ("qwen3_vl", "cuts after 1 and 2, exit 4", first_levels),
        ("qwen3_vl", "fastv after 2", first_levels),
        ("qwen3_vl", "inject 3, cuts 3 and 4, exit 6", lost_on_entry),
        ("qwen3_vl", "inject 2, cut before it, exit 5", lost_on_entry),
        *[
            (name, "fastv after 2", fault)
            for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
            for fault in (counted, one_axis)
        ],
    ],
)
def test_the_reference_notices_a_fault(
    name: str, setting: str, fault: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = batch_of(name, [[*FAMILIES[name].sizes][:2]])
    fault(monkeypatch)
    try:
        difference = compared(name, setting, inputs)
    except AssertionError:  # other tokens were kept
        return
    assert difference > 100 * ATOL
