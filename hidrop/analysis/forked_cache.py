"""A cache that continues from another one without copying it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from hidrop.runtime.cache import RaggedCache


class CutLayer(DynamicLayer):
    """Keys and values that follow those of another layer, which are not copied.

    The two are joined for the attention of one step, and only the new ones are kept. `keys` and `values` are the new
    ones alone, so this layer works for decoding only: no cropping, no beams.
    """

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        return torch.cat([self.held.keys, keys], dim=-2), torch.cat([self.held.values, values], dim=-2)

    def get_seq_length(self) -> int:
        return self.held.get_seq_length() + super().get_seq_length()


def forked(cache: RaggedCache, config: Any, layer: int) -> RaggedCache:
    """A cache that continues from `cache` in the layers before `layer` (1-based) and is empty in the others.

    The layers before `layer` must have seen the same sequence.
    """
    new = RaggedCache(config)
    new.layers[: layer - 1] = [CutLayer(held) for held in cache.layers[: layer - 1]]
    new.segments = [replace(cache.segments[0], last=layer - 1)] if layer > 1 else []
    new.input_length = cache.input_length
    return new
