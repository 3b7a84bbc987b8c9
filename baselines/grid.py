"""Divides an image's patches into `count` cells of about equal size, for any count: for `uniform` and `pool`.

A grid of rows x columns patches is cut into bands of rows, so that cells are about as high as they are wide, and each
band into its share of the cells. An image with several grids (tiles, the frames of a video, a line end) shares its
cells among them by their size, rounded to the nearest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from hidrop.runtime.scoring import Prompt


def cells(prompt: Prompt, total_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cell of each visual token, and whether the token is the one at the cell's centre; both (B, V).

    `total_B` cells are shared among a row's grids by their size. Their numbers continue from grid to grid. A grid that
    is too small for a cell of its own belongs to the next one's first cell (the row's last grid: to the cell before).
    Only valid before the first cut, because all tokens of the images are needed.
    """
    valid, media = prompt.visual_valid_BV, prompt.media
    inside, rows, columns = media.frame_inside_BV.clamp(min=0), media.rows_BV, media.columns_BV
    size = rows * columns
    there = valid.sum(1, keepdim=True).clamp(min=1)
    before = valid.long().cumsum(1) - 1 - inside  # tokens of the row's earlier grids
    total = total_B[:, None]

    def cells_of(tokens: torch.Tensor) -> torch.Tensor:
        return (2 * total * tokens + there) // (2 * there)

    start = cells_of(before)
    share = cells_of(before + size) - start
    start = torch.minimum(start, total - 1).clamp(min=0)
    count = share.clamp(min=1)
    least = (count + columns - 1) // columns
    even = (count.float() * rows / columns).sqrt().round().long()
    bands = torch.minimum(torch.minimum(torch.maximum(even, least), rows), count)
    y, x = inside // columns, inside % columns
    band = y * bands // rows
    first, end = band * count // bands, (band + 1) * count // bands
    wide = end - first
    column = x * wide // columns
    # The middle of the rows y with y * bands // rows == band, and the same for the columns.
    centre = valid & (share > 0) & (y == _middle(band, bands, rows)) & (x == _middle(column, wide, columns))
    return start + first + column, centre


def _middle(part: torch.Tensor, parts: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """The middle one of the numbers n < length with n * parts // length == part (the earlier of two)."""
    start = (part * length + parts - 1) // parts
    stop = ((part + 1) * length + parts - 1) // parts
    return (start + stop - 1) // 2
