"""A reduced model's forward by graphs: the prefill and the decoding step that are captured, and when they may be."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import Cache
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast

from hidrop.runtime import outputs
from hidrop.runtime.cache import RaggedCache, Segment
from hidrop.runtime.cuda_graphs import Graphs
from hidrop.runtime.layout import plan_batch
from hidrop.runtime.trace import Record
from hidrop.runtime.vision import Vision

if TYPE_CHECKING:
    from hidrop.runtime.attach import Reduction


def possible(reduction: Reduction, use_cache: bool | None, cache: Cache | None) -> bool:
    """Whether this prefill may be a graph: see `capture`."""
    model, config = reduction.model, reduction.decoder.model.config
    spread = len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
    wanted = config.use_cache if use_cache is None else use_cache
    return not (
        model.training
        or torch.is_grad_enabled()
        or reduction.reducer.adaptive
        or reduction.reducer.rechosen
        or spread
        or (
            reduction.geometry.anyres and reduction.reducer.prepares
        )  # images of different sizes are numbered on the host
        or isinstance(cache, RaggedCache)
        or not (wanted or cache is not None)
        or config._attn_implementation != "sdpa"
    )


def prefill(
    reduction: Reduction,
    graphs: Graphs,
    ids_BS: torch.Tensor,
    mask_BS: torch.Tensor | None,
    image_BS: torch.Tensor,
    vision: Vision | None,
    return_dict: bool | None,
) -> tuple | LlavaCausalLMOutputWithPast:
    """A prefill by a graph: the last token's logits."""
    length = ids_BS.shape[1]
    mask_BS = torch.ones_like(ids_BS) if mask_BS is None else mask_BS
    ids_BS, mask_BS, image_BS = (graphs.padded(tensor) for tensor in (ids_BS, mask_BS, image_BS))
    layout = reduction.layout_of(ids_BS, mask_BS, image_BS, multiple=graphs.bucket)
    plan = plan_batch(reduction.reducer.schedule(reduction.geometry), reduction.geometry, layout)
    images = None
    if vision is not None and (reduction.encoded_before or reduction.geometry.anyres):  # both wait for the device
        images, vision = reduction.encode(vision), replace(vision, image_sizes=None)

    def run(inputs: Any, cache: RaggedCache) -> tuple[torch.Tensor, Record]:
        ids, layout, plan, vision, images = inputs
        _, sequence, record = reduction.whole(ids, layout, plan, vision, images, cache)
        return reduction.model.lm_head(reduction.decoder.model.norm(sequence.hidden[:, -1:])), record

    seen = None if vision is None else (str(vision.layer), vision.strategy)
    key = (reduction.reducer, layout.visual_counts, layout.text_padded, seen, torch.is_inference_mode_enabled())
    logits, record, cache = graphs.prefill(
        key,
        (ids_BS, layout, plan, vision, images),
        run,
        [layout.text_slots + visual for visual in plan.entering],
        reduction.decoder.model.config,
        reduction.geometry,
        like=reduction.model.get_input_embeddings().weight,
    )
    cache.input_length = length
    reduction.keep(replace(record, layout=layout))
    return outputs.returned(logits, cache, images or [], return_dict)


def step(
    reduction: Reduction,
    ids_B1: torch.Tensor,
    step_1: torch.Tensor,
    segments: list[tuple[Segment, torch.Tensor]],
    cache: Cache,
) -> torch.Tensor:
    """The logits of one decoded token, as a graph runs it."""
    hidden = reduction.model.get_input_embeddings()(ids_B1)
    places = [(segment, (segment.next_B + step_1)[:, None], mask) for segment, mask in segments]
    hidden = reduction.decoder.behind(hidden, places, cache)
    return reduction.model.lm_head(reduction.decoder.model.norm(hidden))
