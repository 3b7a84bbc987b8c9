"""An image's patches divided into `count` cells of about equal size, for any count: what `uniform` and `pool` share.

The square of side x side patches is cut into about sqrt(count) bands of rows, and each band into its share of the
cells. An image whose tokens are no square counts as one row.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from hidrop.runtime.scoring import View


def square_side(tokens: int) -> tuple[int, int]:
    """Rows and columns of an image with `tokens` visual tokens."""
    side = math.isqrt(tokens)
    return (side, side) if side * side == tokens else (1, tokens)


def cells(view: View, image_tokens: int, total_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cell of each visual token, and whether the token is the one at the cell's centre; both (B, V).

    `total_B` cells are shared out evenly among a row's images of `image_tokens` tokens each, and numbered on from image
    to image. Integer tensors only. Before the first cut only: all tokens of the images must be there.
    """
    rank_BV = view.rank_BV.clamp(min=0)
    count_B = total_B // (view.valid_BV.sum(1) // image_tokens).clamp(min=1)
    rows, columns = square_side(image_tokens)
    count = count_B[:, None].clamp(min=1)
    least = (count + columns - 1) // columns
    bands = torch.maximum(count.float().sqrt().round().long(), least).clamp(max=rows)
    image, inside = rank_BV // image_tokens, rank_BV % image_tokens
    y, x = inside // columns, inside % columns
    band = y * bands // rows
    first, end = band * count // bands, (band + 1) * count // bands
    wide = end - first
    column = x * wide // columns
    # The middle of the rows y with y * bands // rows == band, and likewise of the columns.
    middle_y = _middle(band, bands, rows)
    middle_x = _middle(column, wide, columns)
    return image * count + first + column, (y == middle_y) & (x == middle_x)


def _middle(part: torch.Tensor, parts: torch.Tensor, length: int) -> torch.Tensor:
    """The middle one of the numbers n < length with n * parts // length == part (the earlier of two)."""
    start = (part * length + parts - 1) // parts
    stop = ((part + 1) * length + parts - 1) // parts
    return (start + stop - 1) // 2
