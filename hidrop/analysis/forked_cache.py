"""A cache that goes on where another one is, without a copy of what that one holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

from hidrop.runtime.cache import RaggedCache


class Behind(DynamicLayer):
    """Keys and values behind those of another layer, which stay where they are.

    The two are put together for the attention of one step, and only what is new is kept. `keys` and `values` are the
    new ones alone, so that nothing but decoding forwards works with it: no crop, no beams.
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
    """A cache that holds what the layers before `layer` (1-based) of `cache` hold; the others are empty.

    Those layers all saw one and the same sequence.
    """
    new = RaggedCache(config)
    new.layers[: layer - 1] = [Behind(held) for held in cache.layers[: layer - 1]]
    new.segments = [replace(cache.segments[0], last=layer - 1)] if layer > 1 else []
    new.input_length = cache.input_length
    return new
