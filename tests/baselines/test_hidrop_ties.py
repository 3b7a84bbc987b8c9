"""HiDrop with `ties: released`: rounded scores, and every token that scores as much as the last one that stays."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from hidrop.geometry import PRESETS
from hidrop.hidrop import HiDrop
from hidrop.methods import build
from hidrop.runtime import reduce
from tests.baselines.slow_model import SlowLlava
from tests.baselines.slow_rules import NextLayerRule

FIELDS: dict[str, Any] = dict(inject=2, filters=(3, 4), keep=(5, 2), exit=6, ties="released")
TIED = HiDrop(**FIELDS)


def half(x: float) -> float:
    """To float16 and back, by the standard library."""
    return struct.unpack("<e", struct.pack("<e", x))[0]


def brain(x: float) -> float:
    """To bfloat16 and back: float32 with 16 bits fewer, rounded to the nearest, ties to even."""
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    bits += 0x7FFF + ((bits >> 16) & 1)
    return struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))[0]


def slow_choice(logits: list[list[float]], visual: list[int], k: int, rounded: Any) -> list[int]:
    """The released rule for one query: places of `visual` that stay. `logits` by head and token."""
    scores = [0.0] * len(logits[0])
    for head in logits:
        powers = [math.exp(x - max(head)) for x in head]
        scores = [s + rounded(p / sum(powers)) for s, p in zip(scores, powers, strict=True)]
    means = [rounded(scores[i] / len(logits)) for i in visual]
    return [i for i, mean in enumerate(means) if sum(other > mean for other in means) < k]


# Two heads, tokens 1-5 are visual. Softmax gives distinct float32 scores; in 8 bits tokens 2 and 4 are equal.
NEAR = [[[1.0, 0.25, 0.5, 0.75, 0.5, 0.0, 0.5], [0.5, 0.25, 1.0, 0.0, 1.0 - 1 / 256, 0.25, 1.0]]]


@pytest.mark.parametrize(("dtype", "rounded"), [(torch.float16, half), (torch.bfloat16, brain)])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_choice_is_the_released_rule(dtype, rounded, k, view_of_logits):
    logits = [[[rounded(x) for x in head] for head in NEAR[0]]]
    view = view_of_logits(logits, queries=[6], visual=[1, 2, 3, 4, 5], dtype=dtype, keep=k)
    score, (cut,) = TIED.choose(view)
    wanted = slow_choice(logits[0], [1, 2, 3, 4, 5], k, rounded)
    assert sorted(score[0].argsort(descending=True, stable=True)[: cut.keep].tolist()) == wanted


def test_near_scores_are_equal_in_half_precision_only(view_of_logits):
    """With float32 scores exactly one stays; in bfloat16 the two best tie and both stay."""
    counts = {}
    for dtype in (torch.float32, torch.bfloat16):
        view = view_of_logits(NEAR, queries=[6], visual=[1, 2, 3, 4, 5], dtype=dtype)
        counts[dtype] = TIED.choose(view)[1][0].keep
    assert counts == {torch.float32: 1, torch.bfloat16: 2}


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_tied_tokens_stay_in_the_model_as_in_the_slow_reference(kv_heads, tiny_llava, prompt, pixels):
    """Without queries in layer 4 all its scores are equal, so that the cut after layer 3 drops nothing."""
    model = tiny_llava(kv_heads=kv_heads, seed=1)
    with torch.no_grad():
        model.model.language_model.layers[3].self_attn.q_proj.weight.zero_()
    ids, image = prompt(3, 6, seed=1), pixels(seed=1)
    slow = SlowLlava(model, NextLayerRule({3: 5, 4: 2}, compacted=False, inject=2, exit=6, ties=True))
    wanted, wanted_logits = slow.greedy(ids[0].tolist(), image, 4)
    with reduce(model, TIED) as reduction:
        out = model.generate(
            input_ids=ids, pixel_values=image, max_new_tokens=4, do_sample=False,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        assert reduction.trace.entering == (0, 16, 16, 16, 2, 0)
        assert reduction.plan.entering == (0, 16, 16, 5, 2, 0)
        reduction.check()
    assert out.sequences[0, ids.shape[1] :].tolist() == wanted
    torch.testing.assert_close(torch.cat(list(out.logits)).double(), torch.stack(wanted_logits), atol=2e-4, rtol=1e-4)


@dataclass(frozen=True)
class InSteps(HiDrop):
    """Scores by place in the image, equal in runs whose length is that of the row's question."""

    name: ClassVar[str] = "in-steps"

    def score(self, view: Any) -> torch.Tensor:
        length_B1 = (view.order_BN.gather(1, view.text_BT) >= 0).sum(1, keepdim=True) - 3
        return -(view.rank_BV // length_B1).float()


def test_rows_with_different_ties_keep_different_numbers_and_equal_single_runs(tiny_llava, prompt, pixels, padded):
    model, method = tiny_llava(kv_heads=2), InSteps(**FIELDS)
    prompts, images = [prompt(3, n, seed=n) for n in (1, 3, 7)], [pixels(seed=n) for n in range(3)]
    with reduce(model, method) as reduction, torch.no_grad():
        together = model(**padded(prompts), pixel_values=torch.cat(images)).logits[:, -1]
        reduction.check()
        rows, kept = reduction.trace.rows, reduction.kept
        single = [model(input_ids=p, pixel_values=i).logits[:, -1] for p, i in zip(prompts, images, strict=True)]
    # Runs of 1, 3 and 7 equal scores: of 5 wanted tokens 5, 6 and 7 stay, and of 2 then 2, 3 and 7.
    assert [(row[3], row[4]) for row in rows] == [(5, 2), (6, 3), (7, 7)]
    assert kept[0].rows == (tuple(range(5)), tuple(range(6)), tuple(range(7)))
    torch.testing.assert_close(together, torch.cat(single), atol=5e-5, rtol=1e-4)


def test_in_bfloat16_some_samples_keep_more_and_none_keeps_fewer(tiny_llava, prompt, pixels):
    model = tiny_llava(kv_heads=2, scale=0.05).to(torch.bfloat16)
    first = []
    with reduce(model, TIED) as reduction, torch.no_grad():
        for seed in range(20):
            model(input_ids=prompt(3, 6, seed=seed), pixel_values=pixels(seed=seed).bfloat16())
            reduction.check()
            first.append(reduction.trace.entering[3])
    assert min(first) == 5 and max(first) > 5


def test_the_plan_is_that_of_distinct_scores():
    paper = dict(inject=9, filters=(10, 14, 16, 18), keep=(87, 10, 5, 1), exit=25)
    llava = PRESETS["llava-1.5-7b"]
    assert HiDrop(**paper, ties="released").plan(llava) == HiDrop(**paper).plan(llava)
    assert (HiDrop(**paper, ties="released").bound, HiDrop(**paper).bound) == ("~", "")
    assert not HiDrop(**paper).adaptive


@pytest.mark.parametrize("topk", ["ste", "soft-gate"])
def test_released_ties_go_with_the_released_choice(topk):
    with pytest.raises(ValueError, match=f"ties: released is the choice of topk: released, not of {topk}"):
        HiDrop(**FIELDS, topk=topk).plan(PRESETS["llava-1.5-7b"])
    with pytest.raises(ValueError, match="ties: input should be 'earlier' or 'released', not 'all'"):
        build("hidrop", {**FIELDS, "ties": "all"})
