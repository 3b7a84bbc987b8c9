"""A model of any size with random weights: time does not depend on them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from evals.profiling.architectures import ARCHITECTURES, Architecture
from hidrop.backbones import backbone_class, backbone_of, count_by
from hidrop.backbones.llava import Llava, Tower
from hidrop.geometry import PRESETS, Geometry

# CLIP ViT-L/14, except with a small decoder.
CLIP_LARGE = Tower(hidden=1024, intermediate=4096, layers=24, heads=16, patch=14)
SMALLEST = Tower(hidden=192, intermediate=768, layers=4, heads=3, patch=14)
TOWERS = {
    "bench-400m": Tower(hidden=384, intermediate=1536, layers=6, heads=6, patch=14),
    "bench-40m": SMALLEST,
    "bench-40m-144": SMALLEST,
}


def random_model(name: str, *, dtype: torch.dtype, device: torch.device, attention: str = "sdpa") -> Any:
    """The geometry `name` of PRESETS as a model. Has the parts of `load`'s result that profiling uses."""
    parts = ARCHITECTURES.get(name) or TOWERS.get(name, CLIP_LARGE)
    return build(PRESETS[name], parts, dtype=dtype, device=device, attention=attention)


def build(
    geometry: Geometry,
    parts: Tower | Architecture,
    *,
    dtype: torch.dtype,
    device: torch.device,
    attention: str = "sdpa",
) -> Any:
    """A model of these sizes: LLaVA with a tower of its own, or another family.

    Where each image has its own number of tokens, absolute counts are of `geometry.visual_tokens`. Raises ValueError
    for sizes that the family cannot have.
    """
    import transformers

    config = Llava.config_for(geometry, parts) if isinstance(parts, Tower) else parts.config(geometry)
    family = backbone_class(config.model_type)
    assert family is not None
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = getattr(transformers, family.model_class)._from_config(config, attn_implementation=attention)
    finally:
        torch.set_default_dtype(before)
    model = model.to(device=device, dtype=dtype).eval()
    count_by(model, geometry.visual_tokens)
    backbone = backbone_of(model)
    return SimpleNamespace(model=model, backbone=backbone, geometry=backbone.geometry)
