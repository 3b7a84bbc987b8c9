"""Reduced generation, cached, against transformers' own forward over the whole sequence without a cache.

The reference runs the stock model on prompt and answer at once. A forward pre-hook on each layer forbids attention to
the tokens that the layer should not have (4D masks), and hands the image in, untouched, at the injection layer.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hidrop.methods import build
from hidrop.runtime import decoder as decoder_module
from hidrop.runtime import reduce

METHODS = {
    "hidrop": ("hidrop", dict(inject=3, filters=[3, 4], keep=[6, 2], exit=6), 3, 6),
    "fastv": ("fastv", dict(layer=2, keep=5), 1, None),
    "random": ("random", dict(layer=1, keep=4), 1, None),
}


def reference(
    model: Any, ids: torch.Tensor, image: torch.Tensor, kept: dict[int, list[int]], inject: int, exit: int | None
) -> torch.Tensor:
    """Logits at every place. `kept`: places of the visual tokens that stay after a layer."""
    visual = (ids[0] == 99).nonzero()[:, 0].tolist()
    length, there, hooks = ids.shape[1], list(visual), []
    raw = torch.cat(list(model.get_image_features(image).pooler_output))
    for layer in range(1, len(model.model.language_model.layers) + 1):
        if layer - 1 in kept:
            there = kept[layer - 1]
        present = [] if layer < inject or (exit is not None and layer >= exit) else there
        seen = torch.ones(length, length).tril().bool()
        seen[:, [i for i in visual if i not in present]] = False
        seen |= torch.eye(length, dtype=torch.bool)

        def hook(_: Any, args: Any, kwargs: Any, seen: Any = seen, layer: int = layer) -> Any:
            hidden = args[0].clone()
            if layer == inject:
                hidden[0, visual] = raw
            return (hidden, *args[1:]), {**kwargs, "attention_mask": seen[None, None]}

        hooks.append(model.model.language_model.layers[layer - 1].register_forward_pre_hook(hook, with_kwargs=True))
    try:
        return model(input_ids=ids, pixel_values=image, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("kv_heads", [4, 2], ids=["MHA", "GQA"])
@pytest.mark.parametrize("row", METHODS)
def test_cached_generation_equals_recomputing_without_a_cache(row, kv_heads, monkeypatch, tiny_llava, prompt, pixels):
    name, params, inject, exit = METHODS[row]
    model, ids, image = tiny_llava(kv_heads=kv_heads), prompt(4, 6), pixels()
    kept: dict[int, list[int]] = {}
    cut = decoder_module.Decoder._cut

    def spy_cut(self: Any, sequence: Any, before: Any, plan: Any, place: int, *rest: Any) -> Any:
        out, plan = cut(self, sequence, before, plan, place, *rest)
        kept[plan.cuts[place].after] = (out.order.gather(1, out.visual)[0] // decoder_module.ROOM).tolist()
        return out, plan

    monkeypatch.setattr(decoder_module.Decoder, "_cut", spy_cut)
    with reduce(model, build(name, params)), torch.no_grad():
        out = model.generate(
            input_ids=ids,
            pixel_values=image,
            max_new_tokens=6,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert all(kept.values())
    with torch.no_grad():
        wanted = reference(model, out.sequences, image, kept, inject, exit)
    got = torch.stack(out.logits, 1)
    torch.testing.assert_close(got, wanted[:, ids.shape[1] - 1 : -1], atol=2e-5, rtol=1e-5)
    assert torch.equal(wanted[0, ids.shape[1] - 1 : -1].argmax(-1), out.sequences[0, ids.shape[1] :])
