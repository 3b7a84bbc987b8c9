"""The table of families, which is in hidrop/testing/tiny/inputs.py, and what only hidrop's own tests ask of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from inspect import getattr_static
from typing import Any

import torch

from hidrop.backbones import Backbone, backbone_class, backbone_of
from hidrop.testing.tiny.inputs import (
    FAMILIES,
    Family,
    batch_of,
    derived,
    model_of,
    picture,
    processor_of,
    row_of,
    video_of,
    words,
)

__all__ = [
    "FAMILIES",
    "Family",
    "batch_of",
    "derived",
    "eager_of",
    "model_of",
    "picture",
    "positioned",
    "processor_of",
    "row_of",
    "video_of",
    "with_own",
    "words",
]


def with_own(method: str) -> list[str]:
    """The families that override a method of Backbone, for tests that only concern those."""
    base = getattr_static(Backbone, method)
    return [name for name in FAMILIES if getattr_static(backbone_class(name), method) is not base]


@functools.cache
def eager_of(name: str) -> Any:
    """The same model with transformers' slow attention, which gives its weights away."""
    model = FAMILIES[name].make()
    model.set_attn_implementation("eager")
    return model


def positioned(name: str, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Inputs for transformers' own forward, with explicit positions where it would work out wrong ones.

    Without positions a LLaVA counts padding, too. Families with M-RoPE work positions out by themselves; where those of
    videos are wrong, they get hidrop's, which test_mrope.py has by hand.
    """
    backbone = backbone_of(model_of(name))
    if not FAMILIES[name].exact and "video_grid_thw" in inputs:
        valid, kinds = inputs["attention_mask"].bool(), backbone.kinds(inputs["input_ids"])
        return {**inputs, "position_ids": backbone.places(valid, kinds, backbone.vision(inputs)).position_PBS}
    if backbone.geometry.rope_axes > 1:
        return dict(inputs)
    counted = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return {**inputs, "position_ids": counted}
