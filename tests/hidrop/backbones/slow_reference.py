"""A slow, obvious reference for reduced runs: transformers' own forward over the whole sequence, without a cache.

Hooks give each layer a mask in which only the tokens that are still there can be seen, and hold visual tokens fixed
in layers that they skip. Tokens are chosen from transformers' own attention weights. One row, no padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from hidrop.backbones import Backbone


@dataclass(frozen=True)
class Steps:
    """When visual tokens enter, which numbers are kept after which layers, and when they leave; layers 1-based.

    `of`: whose attention ranks them, that of "this" layer (FastV) or of the "next" one (HiDrop).
    """

    inject: int = 1
    cuts: tuple[tuple[int, int], ...] = ()
    exit: int | None = None
    of: str = "next"


def run(
    model: Any, backbone: Backbone, inputs: Mapping[str, torch.Tensor], steps: Steps, answer: int = 0
) -> tuple[torch.Tensor, list[list[int]]]:
    """Logits (S, vocab) and the visual tokens (0-based ranks) that each cut keeps.

    The last `answer` tokens of `input_ids` were generated: tokens are ranked by the query of the one before them.
    """
    ids = inputs["input_ids"]
    visual = (backbone.kinds(ids)[0] > 0).nonzero()[:, 0]
    kept: list[list[int]] = []
    there = [*range(len(visual))]
    for after, keep in steps.cuts:
        layer = after + (steps.of == "next")
        weights = _forward(model, backbone, inputs, steps, visual, kept, watch=layer)[1]
        seen = weights.mean(0)[ids.shape[1] - 1 - answer, visual]
        best = sorted(there, key=lambda rank: (-seen[rank].item(), rank))[:keep]
        there = sorted(best)
        kept.append(there)
    return _forward(model, backbone, inputs, steps, visual, kept)[0], kept


def _forward(
    model: Any,
    backbone: Backbone,
    inputs: Mapping[str, torch.Tensor],
    steps: Steps,
    visual: torch.Tensor,
    kept: list[list[int]],
    watch: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and the attention weights (H, S, S) of layer `watch`. Cuts that are not in `kept` yet do not happen."""
    length = inputs["input_ids"].shape[1]
    plain = _mask(backbone, inputs["input_ids"])
    found: list[torch.Tensor] = []
    layers = backbone.decoder.layers
    with ExitStack() as stack:
        for number, layer in enumerate(layers, start=1):
            gone = _gone(steps, kept, number, len(visual), last=watch is not None and number == watch)
            mask = plain.clone()
            mask[:, visual[gone]] = torch.finfo(mask.dtype).min
            mask[torch.arange(length), torch.arange(length)] = 0  # a row needs something to look at

            def masked(module: Any, args: Any, kwargs: Any, mask: torch.Tensor = mask) -> Any:
                return args, {**kwargs, "attention_mask": mask[None, None]}

            def held(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
                before = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
                output = output.clone()
                output[:, visual] = before[:, visual]
                return output

            def noted(module: Any, args: Any, output: Any) -> None:
                found.append(output[1][0])

            stack.callback(layer.register_forward_pre_hook(masked, with_kwargs=True).remove)
            if number < steps.inject:
                stack.callback(layer.register_forward_hook(held, with_kwargs=True).remove)
            if number == watch:
                stack.callback(layer.self_attn.register_forward_hook(noted).remove)
        with torch.no_grad():
            logits = model(**inputs).logits[0]
    return logits, found[0] if found else torch.empty(0)


def _gone(steps: Steps, kept: list[list[int]], layer: int, count: int, *, last: bool) -> list[int]:
    """Visual tokens that this layer does not see."""
    if layer < steps.inject or (steps.exit is not None and layer >= steps.exit):
        return [*range(count)]
    there = [*range(count)]
    for (after, _), ranks in zip(steps.cuts, kept, strict=False):
        if layer > after:
            there = ranks
    return [rank for rank in range(count) if rank not in there]


def _mask(backbone: Backbone, ids: torch.Tensor) -> torch.Tensor:
    """What may be seen, (S, S), 0 or the lowest number; tokens of one image both ways where the family does so."""
    length, lowest = ids.shape[1], torch.finfo(torch.float32).min
    mask = torch.full((length, length), lowest).triu(1)
    if backbone.both_ways:
        visual = (backbone.kinds(ids)[0] > 0).tolist()
        run, runs = -1, list[int]()
        for place, one in enumerate(visual):
            run += one and (place == 0 or not visual[place - 1])
            runs.append(run if one else -1)
        numbers = torch.tensor(runs)
        mask[(numbers[:, None] == numbers) & (numbers >= 0)] = 0
    return mask
