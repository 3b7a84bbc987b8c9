"""A KV cache in which every layer has a length of its own, with what decoding needs to know about it.

Layers that saw the same sequence form a segment: they share one validity mask and one next RoPE position. Anything
that is derived from "the" cache length (as transformers does from layer 0) would be wrong here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from hidrop.backbones.model_inputs import Places
from hidrop.cache_name import cache_name


@dataclass
class Segment:
    """Consecutive layers with the same keys. `valid_BN` None: every key counts. Layers 1-based, both included."""

    first: int
    last: int
    valid_BN: torch.Tensor | None
    next_B: torch.Tensor

    def append(self, valid_BQ: torch.Tensor | None, length: int, rows: int, count: int) -> None:
        """Append `count` new tokens to `length` old ones."""
        if self.valid_BN is None and valid_BQ is None:
            self.next_B = self.next_B + count
            return
        new = self.next_B.new_ones(rows, count, dtype=torch.bool) if valid_BQ is None else valid_BQ
        old = self.next_B.new_ones(rows, length, dtype=torch.bool) if self.valid_BN is None else self.valid_BN
        self.valid_BN = torch.cat([old, new], dim=1)
        self.next_B = self.next_B + new.sum(1)


def empty_layers(config: Any) -> list[DynamicLayer]:
    """A cache layer for each of the decoder's. None of them forgets a token, whatever window its layer may have."""
    return [DynamicLayer() for _ in range(config.num_hidden_layers)]


@dataclass
class Replay:
    """The input so far, for methods that choose again at each token: ids and masks (B, S), visual tokens (B, V, D),
    what DeepStack adds to these, what the method has noted of them in the tower, and where everything is.

    `kind_BS` tells placeholders from a generated token that happens to have their id, which is text.
    """

    ids_BS: torch.Tensor
    mask_BS: torch.Tensor
    kind_BS: torch.Tensor
    visual_BVD: torch.Tensor
    levels: tuple[torch.Tensor, ...]
    places: Places
    side: torch.Tensor | None = None

    def continued(self, ids_BQ: torch.Tensor, mask_BQ: torch.Tensor | None) -> Replay:
        """With `ids_BQ` at the end; no mask: none of them is padding."""
        valid = torch.ones_like(ids_BQ) if mask_BQ is None else mask_BQ
        offset_BQ = (valid.long().cumsum(1) - 1).clamp(min=0)
        new_PBQ = (self.places.next_B[:, None] + offset_BQ).expand(len(self.places.position_PBS), -1, -1)
        return replace(
            self,
            ids_BS=torch.cat([self.ids_BS, ids_BQ], 1),
            mask_BS=torch.cat([self.mask_BS, valid.to(self.mask_BS)], 1),
            kind_BS=torch.cat([self.kind_BS, torch.zeros_like(ids_BQ)], 1),
            places=Places(torch.cat([self.places.position_PBS, new_PBQ], 2), self.places.next_B + valid.long().sum(1)),
        )

    def without(self, removed: int) -> Replay:
        """Without the last `removed` tokens."""
        left = self.ids_BS.shape[1] - removed
        fewer_B = self.mask_BS[:, left:].long().sum(1)
        return replace(
            self,
            ids_BS=self.ids_BS[:, :left],
            mask_BS=self.mask_BS[:, :left],
            kind_BS=self.kind_BS[:, :left],
            places=Places(self.places.position_PBS[:, :, :left], self.places.next_B - fewer_B),
        )

    def each_row(self, change: Any) -> Replay:
        position_BPS = change(self.places.position_PBS.transpose(0, 1))
        places = Places(position_BPS.transpose(0, 1), change(self.places.next_B))
        ids, mask, kind, visual = map(change, (self.ids_BS, self.mask_BS, self.kind_BS, self.visual_BVD))
        side = None if self.side is None else change(self.side)
        return Replay(ids, mask, kind, visual, tuple(map(change, self.levels)), places, side)


class RaggedCache(DynamicCache):
    """What a reduced model returns as its KV cache; `generate()` carries it through its loop.

    `get_seq_length()` without a layer is the length of the input so far (as callers expect who slice token ids);
    with a layer (0-based) it is what that layer holds.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.layers = empty_layers(config)
        self.segments: list[Segment] = []
        self.input_length = 0
        self.replay: Replay | None = None
        # Whose memory the keys are in, where a graph has written them (cuda_graphs.py).
        self.fixed: Any = None
        self._config = config

    def release(self) -> None:
        """Take keys and values out of a graph's memory, before they are changed in any other way than by the graph.

        Raises RuntimeError when a later prefill has overwritten them.
        """
        if self.fixed is not None:
            self.fixed.check()
            self.fixed = None
            for layer in self.layers:
                layer.keys, layer.values = layer.keys.clone(), layer.values.clone()

    def start_again(self) -> None:
        """Forget all keys, values and segments, as before the prefill."""
        self.layers = empty_layers(self._config)
        self.segments, self.input_length = [], 0

    def get_seq_length(self, layer_idx: int | None = None) -> int:
        return self.input_length if layer_idx is None else super().get_seq_length(layer_idx)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Keys in each layer, fillers included, read off the tensors."""
        return tuple(0 if layer.keys is None else layer.keys.shape[-2] for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, read off the tensors."""
        tensors = (t for layer in self.layers if layer.keys is not None for t in (layer.keys, layer.values))
        return sum(t.numel() * t.element_size() for t in tensors)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.get_seq_length(layer_idx)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self.release()
        super().reorder_cache(beam_idx)
        self._each_row(lambda rows: rows.index_select(0, beam_idx.to(rows.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.release()
        super().batch_repeat_interleave(repeats)
        self._each_row(lambda rows: rows.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.release()
        super().batch_select_indices(indices)
        self._each_row(lambda rows: rows[indices.to(rows.device)])

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens, given as a negative number; only decoded ones, a cut cannot be undone."""
        if tokens_to_remove > 0:
            raise ValueError("crop: give the number of tokens to remove as a negative number")
        self.release()
        super().crop(tokens_to_remove)
        removed = -tokens_to_remove
        self.input_length -= removed
        if self.replay is not None:
            self.replay = self.replay.without(removed)
        for segment in self.segments if removed else ():
            if segment.valid_BN is None:
                segment.next_B = segment.next_B - removed
            else:
                segment.next_B = segment.next_B - segment.valid_BN[:, -removed:].sum(1)
                segment.valid_BN = segment.valid_BN[:, :-removed]

    def reset(self) -> None:
        raise NotImplementedError("a reduced cache is not reused: start the next prompt without it")

    def _each_row(self, change: Any) -> None:
        for segment in self.segments:
            segment.next_B = change(segment.next_B)
            segment.valid_BN = None if segment.valid_BN is None else change(segment.valid_BN)
        if self.replay is not None:
            self.replay = self.replay.each_row(change)


def cache_for(decoder: Any, given: Cache | None, wanted: bool | None, labels: bool) -> RaggedCache | None:
    """The cache that a forward fills: the caller's own, a new one, or none, as in training."""
    config = decoder.config
    checkpointing = decoder.training and getattr(decoder.layers[0], "gradient_checkpointing", False)
    if labels or checkpointing:
        return None
    if given is None and not (config.use_cache if wanted is None else wanted):
        return None
    return given if isinstance(given, RaggedCache) else RaggedCache(config)


def check_empty(cache: Cache | None) -> None:
    """Raises ValueError for a cache that a first prefill cannot begin with."""
    if cache is None or isinstance(cache, RaggedCache):
        return
    if type(cache) is not DynamicCache or cache.offloading:
        kind = type(cache).__name__
        raise ValueError(f"{cache_name()}: {kind} cannot hold layers of different lengths; use the default cache")
    if cache.get_seq_length():
        raise ValueError(f"{cache_name()}: this cache was filled without the reducer; start from the whole prompt")
