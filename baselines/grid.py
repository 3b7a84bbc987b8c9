"""Divides an image's patches into `count` cells of about equal size, for any count: for `uniform` and `pool`.

The square of side x side patches is cut into about sqrt(count) bands of rows, and each band into its share of the
cells. An image whose tokens do not form a square (as with anyres) counts as one row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from hidrop.runtime.scoring import Prompt


def cells(prompt: Prompt, total_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cell of each visual token, and whether the token is the one at the cell's centre; both (B, V).

    `total_B` cells are shared among a row's images by their size. Their numbers continue from image to image. Only
    valid before the first cut, because all tokens of the images are needed. Uses integer tensors only.
    """
    valid, inside, size = prompt.visual_valid_BV, prompt.inside_BV.clamp(min=0), prompt.size_BV
    there = valid.sum(1, keepdim=True).clamp(min=1)
    before = valid.long().cumsum(1) - 1 - inside  # tokens of the row's earlier images
    start = total_B[:, None] * before // there
    count = (total_B[:, None] * (before + size) // there - start).clamp(min=1)
    side = size.float().sqrt().round().long()
    square = side * side == size
    rows, columns = torch.where(square, side, 1), torch.where(square, side, size)
    least = (count + columns - 1) // columns
    bands = torch.minimum(torch.maximum(count.float().sqrt().round().long(), least), rows)
    y, x = inside // columns, inside % columns
    band = y * bands // rows
    first, end = band * count // bands, (band + 1) * count // bands
    wide = end - first
    column = x * wide // columns
    # The middle of the rows y with y * bands // rows == band, and the same for the columns.
    centre = (y == _middle(band, bands, rows)) & (x == _middle(column, wide, columns))
    return start + first + column, centre


def _middle(part: torch.Tensor, parts: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """The middle one of the numbers n < length with n * parts // length == part (the earlier of two)."""
    start = (part * length + parts - 1) // parts
    stop = ((part + 1) * length + parts - 1) // parts
    return (start + stop - 1) // 2
