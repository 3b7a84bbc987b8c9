"""The gradient of the choice: where it reaches the scores, and that nothing else changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from hidrop.methods import build
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Reducer, TopK
from hidrop.runtime import reduce
from hidrop.topk import soft_mask

FIELDS = dict(inject=2, filters=[3, 4], keep=[5, 2], exit=6)
# Scored with the projections of the layers after the filters (0-based 3 and 4).
SCORING = {
    f"model.language_model.layers.{i}.{name}.weight"
    for i in (3, 4)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "input_layernorm")
}


@dataclass(frozen=True, eq=False)
class Given(Reducer):
    """Keeps five tokens by given scores, before the first layer; `scale` multiplies each token on its way in."""

    topk: TopK = "released"
    scores: torch.Tensor = field(default_factory=lambda: torch.randn(1, 16).requires_grad_())
    scale: torch.Tensor = field(default_factory=lambda: torch.ones(16, 1).requires_grad_())
    name = "given"

    def schedule(self, geometry):
        return Schedule(cuts=(Cut(0, 5),))

    def encode(self, vision):
        return [self.scale * image for image in vision.features()]

    def score(self, view):
        return self.scores


def training_inputs(prompt: Any, pixels: Any) -> dict[str, torch.Tensor]:
    ids = prompt(3, 9, seed=4)
    labels = ids.clone()
    labels[:, :-4] = -100
    return {"input_ids": ids, "pixel_values": pixels(seed=4), "labels": labels}


def gradients(model: Any, reducer: Reducer, inputs: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    with reduce(model, reducer):
        loss = model(**inputs).loss
        loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("topk", ["ste", "soft-gate"])
def test_the_loss_reaches_the_scores_through_the_soft_mask(topk, tiny_llava, prompt, pixels):
    """A gate g on token i gives dL/dg = (1/g) dL/dscale; the rest of the chain is the soft mask's own gradient."""
    torch.manual_seed(0)
    model, reducer = tiny_llava(kv_heads=2).train(), Given(topk)
    gradients(model, reducer, training_inputs(prompt, pixels))
    mask = soft_mask(reducer.scores, torch.ones(1, 16, dtype=torch.bool), torch.tensor([5]))
    gate = mask.detach() if topk == "soft-gate" else torch.ones(1, 16)
    (wanted,) = torch.autograd.grad(mask, reducer.scores, reducer.scale.grad.T / gate)
    assert reducer.scores.grad.abs().max() > 1e-4
    torch.testing.assert_close(reducer.scores.grad, wanted, atol=1e-7, rtol=1e-4)
    dropped = torch.ones(16, dtype=torch.bool)
    dropped[reducer.scores[0].argsort(descending=True)[:5]] = False
    assert (reducer.scale.grad[dropped] == 0).all()


def test_released_gives_the_scores_no_gradient(tiny_llava, prompt, pixels):
    reducer = Given()
    gradients(tiny_llava().train(), reducer, training_inputs(prompt, pixels))
    assert reducer.scores.grad is None


def test_straight_through_changes_the_gradient_of_the_scoring_projections_only(tiny_llava, prompt, pixels):
    model, inputs = tiny_llava(kv_heads=2).train(), training_inputs(prompt, pixels)
    loss, plain = gradients(model, build("hidrop", FIELDS), inputs)
    same, through = gradients(model, build("hidrop", dict(FIELDS, topk="ste")), inputs)
    assert loss == same
    assert {name for name, g in plain.items() if not torch.equal(g, through[name])} == SCORING


@pytest.mark.parametrize("topk", ["ste", "soft-gate"])
def test_outside_of_training_it_is_the_hard_choice(topk, tiny_llava, prompt, pixels):
    model, inputs = tiny_llava(kv_heads=2), training_inputs(prompt, pixels)
    del inputs["labels"]
    logits = []
    for one in ("released", topk):
        with reduce(model, build("hidrop", dict(FIELDS, topk=one))):
            logits.append(model(**inputs).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_half(dtype, tiny_llava, prompt, pixels):
    model, inputs = tiny_llava(kv_heads=2).train().to(dtype), training_inputs(prompt, pixels)
    inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    loss, found = gradients(model, build("hidrop", dict(FIELDS, topk="soft-gate")), inputs)
    assert loss > 0
    assert all(g.dtype == dtype and torch.isfinite(g).all() for g in found.values())


def test_an_unknown_word_is_refused():
    with pytest.raises(ValueError, match="topk: input should be 'released', 'ste' or 'soft-gate', not 'soft'"):
        build("hidrop", dict(FIELDS, topk="soft"))
