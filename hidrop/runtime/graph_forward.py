"""A reduced model's forward by CUDA graphs: the captured prefill and decoding step, and when they may be used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers.cache_utils import Cache

from hidrop.backbones import Vision
from hidrop.runtime import outputs
from hidrop.runtime.cache import RaggedCache, Segment
from hidrop.runtime.cuda_graphs import Graphs
from hidrop.runtime.forward import ForwardPass
from hidrop.runtime.trace import Record


def possible(forward: ForwardPass, use_cache: bool | None, cache: Cache | None) -> bool:
    """Whether this prefill may be a graph: see cuda_graphs.py."""
    model, config = forward.backbone.model, forward.decoder.model.config
    reducer = forward.reducer
    spread = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
    wanted = config.use_cache if use_cache is None else use_cache
    return not (
        model.training
        or torch.is_grad_enabled()
        or not reducer.capturable
        or spread
        or isinstance(cache, RaggedCache)
        or not (wanted or cache is not None)
        or config._attn_implementation != "sdpa"
    )


def prefill(
    forward: ForwardPass,
    graphs: Graphs,
    ids_BS: torch.Tensor,
    mask_BS: torch.Tensor | None,
    vision: Vision | None,
    return_dict: bool | None,
) -> tuple | outputs.ReducedOutput:
    """A prefill by a graph: the last token's logits."""
    length = ids_BS.shape[1]
    mask_BS = torch.ones_like(ids_BS) if mask_BS is None else mask_BS
    kind_BS = forward.backbone.kinds(ids_BS)
    ids_BS, mask_BS, kind_BS = (graphs.padded(tensor) for tensor in (ids_BS, mask_BS, kind_BS))
    layout = forward.layout_of(ids_BS, mask_BS, kind_BS, vision=vision, multiple=graphs.bucket)
    plan = forward.plan_of(layout)
    images = None
    if vision is not None and (forward.looks_up_features or forward.geometry.dynamic):  # both wait for the device
        images, vision = forward.encode(vision), None

    def run(inputs: Any, cache: RaggedCache) -> tuple[torch.Tensor, Record]:
        ids, layout, plan, vision, images = inputs
        made = forward.whole(ids, layout, plan, vision, images, cache)
        return forward.logits_of(made.sequence.hidden[:, -1:]), made.record

    seen = None if vision is None else vision.key
    key = (
        forward.reducer,
        layout.visual_counts,
        plan.rows,
        layout.text_padded,
        seen,
        torch.is_inference_mode_enabled(),
    )
    logits, record, cache = graphs.prefill(
        key,
        (ids_BS, layout, plan, vision, images),
        run,
        [layout.text_slots + visual for visual in plan.entering],
        forward.decoder.model.config,
        forward.geometry,
        like=forward.embed.weight,
    )
    cache.input_length = length
    forward.keep(replace(record, layout=layout))
    shown = outputs.image_states(images or [], forward.geometry.hidden)
    return outputs.returned(logits, cache, shown, return_dict)


def step(
    forward: ForwardPass,
    ids_B1: torch.Tensor,
    step_1: torch.Tensor,
    segments: list[tuple[Segment, torch.Tensor]],
    cache: Cache,
) -> torch.Tensor:
    """The logits of one decoded token, as a graph runs it."""
    hidden = forward.embed(ids_B1)
    places = [(segment, (segment.next_B + step_1)[:, None], mask) for segment, mask in segments]
    return forward.logits_of(forward.decoder.decode(hidden, places, cache))
