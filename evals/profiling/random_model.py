"""A LLaVA of any size with random weights: time does not depend on them."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch

from hidrop.geometry import PRESETS, Geometry

# Hidden size, MLP size, layers, heads and pixels a patch of the tower: CLIP ViT-L/14, except beside a small decoder.
CLIP_LARGE = (1024, 4096, 24, 16, 14)
TOWERS = {"bench-400m": (384, 1536, 6, 6, 14)}


def random_model(name: str, *, dtype: torch.dtype, device: torch.device, attention: str = "sdpa") -> Any:
    """The geometry `name` of PRESETS as a model: what `load` gives, as far as profiling uses it (model, geometry)."""
    return build(PRESETS[name], TOWERS.get(name, CLIP_LARGE), dtype=dtype, device=device, attention=attention)


def build(
    geometry: Geometry,
    tower: tuple[int, int, int, int, int],
    *,
    dtype: torch.dtype,
    device: torch.device,
    attention: str = "sdpa",
) -> Any:
    """A model of these sizes. Raises ValueError for anyres, or for visual tokens that are no square of patches."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    side = math.isqrt(geometry.visual_tokens)
    if side**2 != geometry.visual_tokens or geometry.anyres:
        raise ValueError(f"{geometry.visual_tokens} visual tokens are no square of patches")
    hidden, intermediate, layers, heads, patch = tower
    config = LlavaConfig(
        text_config=LlamaConfig(**geometry.text_config()),
        vision_config=CLIPVisionConfig(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            image_size=side * patch,
            patch_size=patch,
        ),
        image_token_index=geometry.vocab - 1,
        image_seq_length=geometry.visual_tokens,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
    finally:
        torch.set_default_dtype(before)
    return SimpleNamespace(model=model.to(device=device, dtype=dtype).eval(), geometry=geometry)
