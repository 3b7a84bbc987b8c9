"""A LLaVA of any size with random weights: time does not depend on them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from hidrop.backbones import backbone_of
from hidrop.backbones.llava import Llava, Tower
from hidrop.geometry import PRESETS, Geometry

# CLIP ViT-L/14, except with a small decoder.
CLIP_LARGE = Tower(hidden=1024, intermediate=4096, layers=24, heads=16, patch=14)
TOWERS = {"bench-400m": Tower(hidden=384, intermediate=1536, layers=6, heads=6, patch=14)}


def random_model(name: str, *, dtype: torch.dtype, device: torch.device, attention: str = "sdpa") -> Any:
    """The geometry `name` of PRESETS as a model. Has the parts of `load`'s result that profiling uses."""
    return build(PRESETS[name], TOWERS.get(name, CLIP_LARGE), dtype=dtype, device=device, attention=attention)


def build(
    geometry: Geometry,
    tower: Tower,
    *,
    dtype: torch.dtype,
    device: torch.device,
    attention: str = "sdpa",
) -> Any:
    """A model of these sizes. Raises ValueError for anyres, or for visual tokens that are not a square of patches."""
    import transformers

    config = Llava.config_for(geometry, tower)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = getattr(transformers, Llava.model_class)._from_config(config, attn_implementation=attention)
    finally:
        torch.set_default_dtype(before)
    model = model.to(device=device, dtype=dtype).eval()
    return SimpleNamespace(model=model, backbone=backbone_of(model), geometry=geometry)
