"""The walk and its probes on every model family, in batches of images of different sizes.

The reference of states and attention is transformers' own model with eager attention; that of answers is `generate`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from hidrop.analysis import probes, sweeps
from hidrop.analysis.walk import Walk, unreduced
from hidrop.backbones import backbone_of
from hidrop.runtime import reduce
from tests.hidrop.analysis.test_walk import Exiting
from tests.hidrop.backbones.families import FAMILIES, batch_of, eager_of, model_of, positioned

LONGEST = 4
every_family = pytest.mark.parametrize("name", FAMILIES)


def inputs_of(name: str) -> dict[str, torch.Tensor]:
    """Two prompts with an image each, of different sizes where the family has them."""
    first, second = [*FAMILIES[name].sizes][:2]
    return batch_of(name, [[first], [second]])


def generated(name: str, inputs: dict[str, torch.Tensor], inject: int, exit: int | None) -> list[list[int]]:
    """Answers of whole runs in which the visual tokens enter and leave before these layers."""
    model, width = model_of(name), inputs["input_ids"].shape[1]
    with reduce(model, Exiting(inject, exit)):
        return model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)[:, width:].tolist()


@every_family
def test_states_and_attention_are_those_of_transformers(name: str) -> None:
    model, inputs = eager_of(name), inputs_of(name)
    backbone, entered = backbone_of(model), list[torch.Tensor]()
    with torch.inference_mode():
        found = probes.measure(Walk(unreduced(model_of(name)), inputs), top=0.25, windows=(1, 3))
        hooks = [part.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
                 for part in (*backbone.decoder.layers, backbone.decoder.norm)]  # fmt: skip
        out = model(**positioned(name, inputs), output_attentions=True)
        for hook in hooks:
            hook.remove()
    kinds = torch.where(inputs["attention_mask"] > 0, backbone.kinds(inputs["input_ids"]), -1)
    for row in range(2):
        image, first = (kinds[row] > 0).nonzero()[:, 0], int((kinds[row] > 0).nonzero()[0])
        text = (kinds[row] == 0).nonzero()[:, 0]
        members = {"system": text[text < first], "visual": image, "text": text[text > first]}
        for member, places in members.items():
            pairs = ((a[row, places], b[row, places]) for a, b in pairwise(entered[1:]))
            slow = [torch.cosine_similarity(a, b, dim=-1).mean() for a, b in pairs]
            torch.testing.assert_close(found.intra[member][row], torch.stack(slow), atol=2e-5, rtol=0)
        seen = torch.stack([layer[row, :, -1][:, image] for layer in out.attentions])  # (L, H, V)
        torch.testing.assert_close(found.mass[row], seen.mean(1).sum(-1).float(), atol=2e-5, rtol=0)
        keep = max(1, round(0.25 * len(image)))
        for n in (1, 3):
            best = [layer.mean(0).argsort(descending=True, stable=True)[:keep] for layer in seen]
            slow = [torch.cosine_similarity(seen[i][:, best[i]], seen[i + n][:, best[i]], dim=0).mean()
                    for i in range(len(seen) - n)]  # fmt: skip
            torch.testing.assert_close(found.ilvas[n][row], torch.stack(slow), atol=5e-4, rtol=0)
        for layer, top in enumerate(found.top[row]):
            assert set(top) == set(seen[layer].mean(0).argsort(descending=True)[:keep].tolist())


@every_family
def test_answers_are_those_of_whole_runs_at_every_exit_and_injection(name: str) -> None:
    inputs = inputs_of(name)
    decoding = sweeps.Decoding(LONGEST, [])
    with torch.inference_mode():
        walk = Walk(unreduced(model_of(name)), inputs)
        leaving = sweeps.Leaving(walk, decoding, (1.0, 0.5), [5, 6])
        probes.measure(walk, top=0.25, windows=(1,), at=leaving)
        blind = Walk(unreduced(model_of(name)), inputs, features=walk.features, blind=True)
        entered = sweeps.entering(blind, decoding)
    assert leaving.own == generated(name, inputs, 1, None)
    for layer in range(2, 7):
        assert leaving.answers[1.0][layer - 1] == generated(name, inputs, 1, layer), layer
    for layer in range(1, 7):
        assert entered[layer - 1] == generated(name, inputs, layer, None), layer
    assert len(leaving.answers[0.5]) == 6


@every_family
def test_a_row_of_a_batch_gives_what_it_gives_alone(name: str) -> None:
    first, second = [*FAMILIES[name].sizes][:2]

    def measured(inputs: dict[str, Any]) -> tuple[probes.ProbeResults, sweeps.Leaving]:
        with torch.inference_mode():
            walk = Walk(unreduced(model_of(name)), inputs)
            leaving = sweeps.Leaving(walk, sweeps.Decoding(2, []), (0.5,), [5, 6][: len(inputs["input_ids"])])
            return probes.measure(walk, top=0.2, windows=(2,), at=leaving), leaving

    (both, left), (one, alone) = measured(batch_of(name, [[first], [second]])), measured(batch_of(name, [[first]]))
    torch.testing.assert_close(both.mass[:1], one.mass, atol=1e-5, rtol=1e-4)
    for member, curve in both.intra.items():
        torch.testing.assert_close(curve[:1], one.intra[member], atol=1e-5, rtol=1e-4)
    assert both.top[:1] == one.top
    assert [rows[0] for rows in left.answers[0.5]] == [rows[0] for rows in alone.answers[0.5]]


@every_family
def test_an_instruction_is_compared_with_images_of_other_sizes(name: str) -> None:
    """Row 0 of each batch has the same question after another image, with other tokens and other text around tiles."""
    first, second = [*FAMILIES[name].sizes][:2]
    ours, theirs = batch_of(name, [[first]]), batch_of(name, [[second]])
    backbone, states = backbone_of(model_of(name)), list[list[torch.Tensor]]()
    with torch.inference_mode():
        found = probes.cross_modal(*(Walk(unreduced(model_of(name)), inputs) for inputs in (ours, theirs)))
        for inputs in (ours, theirs):
            entered = list[torch.Tensor]()
            hooks = [part.register_forward_pre_hook(lambda _, args, kept=entered: kept.append(args[0]))
                     for part in (*backbone.decoder.layers, backbone.decoder.norm)]  # fmt: skip
            model_of(name)(**positioned(name, inputs))
            for hook in hooks:
                hook.remove()
            states.append(entered[1:])
    kinds = [backbone.kinds(inputs["input_ids"])[0] for inputs in (ours, theirs)]
    asked = [len(kind) - 1 - int((kind > 0).nonzero()[-1]) for kind in kinds]
    assert asked[0] == asked[1] > 3
    pairs = ((a[0, -asked[0] :], b[0, -asked[0] :]) for a, b in zip(*states, strict=True))
    slow = [torch.cosine_similarity(a, b, dim=-1).mean() for a, b in pairs]
    torch.testing.assert_close(found[0], torch.stack(slow), atol=2e-5, rtol=0)
    assert (found < 0.9999).all()
