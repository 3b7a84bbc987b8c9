"""Where in its image each visual token is, for methods that look at more than its features.

Made before the first layer, outside of any captured graph, and only for methods that ask (`Reducer.prepares`).
Shapes as in layout.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from hidrop.backbones.model_inputs import Grid, Vision, size_of


@dataclass(frozen=True)
class MediaTable:
    """Of each visual token, (B, V); -1 in `medium_BV` and the `inside` ones for fillers, 1 in all others.

    `medium_BV`: number of its image or video in the batch; `inside_BV`: its number there; `size_BV`: that medium's
    tokens. `frame_inside_BV`: its number in its grid of rows x columns (one frame of it, for a video), whose sizes are
    `rows_BV` and `columns_BV`. `fingerprint_BV`: a number that the medium's pixels decide (0 for fillers).
    """

    medium_BV: torch.Tensor
    inside_BV: torch.Tensor
    size_BV: torch.Tensor
    frame_inside_BV: torch.Tensor
    rows_BV: torch.Tensor
    columns_BV: torch.Tensor
    fingerprint_BV: torch.Tensor

    def only(self, slot_BK: torch.Tensor) -> MediaTable:
        """Of some of the visual tokens, by their slots; -1 gives a filler."""
        none = {"size_BV": 1, "rows_BV": 1, "columns_BV": 1, "fingerprint_BV": 0}

        def chosen(name: str) -> torch.Tensor:
            return torch.where(slot_BK >= 0, getattr(self, name).gather(1, slot_BK.clamp(min=0)), none.get(name, -1))

        return MediaTable(**{field.name: chosen(field.name) for field in fields(self)})


def media_table(feature_BV: torch.Tensor, vision: Vision | None) -> MediaTable:
    """`feature_BV`: number of each visual token among the features of the batch, -1 for fillers. May wait for the
    device. Without a `vision` (no image, or a sequence that runs again) every token counts as a filler."""
    if vision is None:
        none, one = torch.full_like(feature_BV, -1), torch.ones_like(feature_BV)
        return MediaTable(none, none, one, none, one, one, torch.zeros_like(feature_BV))
    flat, there = feature_BV.clamp(min=0), feature_BV >= 0
    grids = vision.grids
    fingerprint = vision.fingerprints().to(flat.device)
    if len(set(grids)) == 1 and len(grids[0]) == 1 and grids[0][0][0] == 1:  # the usual case, without a transfer
        ((_, rows, columns),) = grids[0]
        medium, inside = flat // (rows * columns), flat % (rows * columns)
        size, row_count, column_count = (torch.full_like(flat, n) for n in (rows * columns, rows, columns))
        frame_inside = inside
    else:
        table = _rows(grids).to(flat.device)[:, flat]
        medium, inside, size, frame_inside, row_count, column_count = table
    return MediaTable(
        medium_BV=torch.where(there, medium, -1),
        inside_BV=torch.where(there, inside, -1),
        size_BV=torch.where(there, size, 1),
        frame_inside_BV=torch.where(there, frame_inside, -1),
        rows_BV=torch.where(there, row_count, 1),
        columns_BV=torch.where(there, column_count, 1),
        fingerprint_BV=torch.where(there, fingerprint[medium], 0),
    )


def _rows(grids: Sequence[Sequence[Grid]]) -> torch.Tensor:
    """Six numbers for each feature of the batch, (6, features): those of MediaTable in its order."""
    frames = [
        (medium, size_of(one), rows, columns)
        for medium, one in enumerate(grids)
        for count, rows, columns in one
        for _ in range(count)
    ]
    table = torch.tensor(frames)
    sizes = table[:, 2] * table[:, 3]
    each = table.repeat_interleave(sizes, 0)
    frame_inside = torch.arange(len(each)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    media = torch.tensor([size_of(one) for one in grids])
    inside = torch.arange(len(each)) - (media.cumsum(0) - media).repeat_interleave(media)
    return torch.stack([each[:, 0], inside, each[:, 1], frame_inside, each[:, 2], each[:, 3]])
