"""The parts of FEATHER: attention without rope over the visual tokens alone, and an even grid of an image's tokens."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from hidrop.budget import earlier_layers, early_layer
from hidrop.geometry import Geometry

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.media_table import MediaTable
    from hidrop.runtime.scoring import View


def unrotated_attention(view: View) -> torch.Tensor:
    """FastV's score (B, V), of states that rope has not turned, where text keys are hidden as fillers are."""
    import torch

    cos, sin = view.rope(view.layer)
    unturned = torch.ones_like(cos), torch.zeros_like(sin)
    visual_BV = view.order_BN.gather(1, view.visual_BV)
    seen_BN = torch.full_like(view.order_BN, -1).scatter(1, view.visual_BV, visual_BV)
    return replace(view, rope=lambda _: unturned, keys=None, order_BN=seen_BN).attention_to_visual(of="this")


def in_grid(media: MediaTable, valid_BV: torch.Tensor, stride: int) -> torch.Tensor:
    """Which visual tokens are in every `stride`-th row and column of their grid, (B, V). Before the first cut."""
    inside, columns = media.frame_inside_BV, media.columns_BV
    return valid_BV & (inside // columns % stride == 0) & (inside % columns % stride == 0)


def grid_first(attention_BV: torch.Tensor, view: View, stride: int) -> torch.Tensor:
    """Scores (B, V) in the order of the attention, those of the grid above all others."""
    from hidrop.topk import top_indices

    slots = attention_BV.shape[1]
    place = top_indices(attention_BV, view.valid_BV, slots).argsort(1)
    return (slots - place + slots * in_grid(view.memory, view.valid_BV, stride)).float()


def union_of(attention_BV: torch.Tensor, view: View, stride: int, best: list[int]) -> torch.Tensor:
    """The `best[b]` tokens of each row and those of the grid, (B, V) bool."""
    from hidrop.topk import keep_top, marked

    index = keep_top(attention_BV, view.valid_BV, view.cut.keep_B.new_tensor(best), max(best))
    return marked(index, attention_BV.shape[1]) | in_grid(view.memory, view.valid_BV, stride)


def with_earlier_cuts(average: float, geometry: Geometry, layers: tuple[int, int] | None, stride: int) -> str:
    """Advice for a budget that is out of reach: layers at which it is not, if there are any."""
    whole, depth = geometry.visual_tokens, geometry.layers
    early = early_layer(average, geometry)
    room = whole * early + (depth // 4 - early) * grid_of(whole, stride) < depth * average
    return earlier_layers(average, geometry, ((layers or (0,))[0], depth // 4)) if room else ""


def count_of(share: float, whole: int) -> int:
    """The share of a number, rounded down; 1e-6 because 100 * 0.29 is 28.999..."""
    return math.floor(share * whole + 1e-6)


def grid_of(whole: int, stride: int) -> int:
    """Tokens in every `stride`-th row and column of a square of tokens; of another number about as many."""
    side = math.isqrt(whole)
    return math.ceil(side / stride) ** 2 if side * side == whole else math.ceil(whole / stride**2)
