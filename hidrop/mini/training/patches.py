"""What each patch of a scene shows, as classes: the supervision of the vision tower's warm-up.

Each patch learns what is in its cell (digit, colour, place, the sign's text) and in the neighbouring cells. Linear
heads read this off the features. They are thrown away, and the recipes start from the tower.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from hidrop.mini.glyphs import WORDS
from hidrop.mini.scenes import CELL, COLORS, DIRECTIONS, GRID, PLACES, SIDE, Scene

PATCH = 8
PATCHES = SIDE // PATCH
_NAMES = tuple(COLORS)
# name -> number of classes; class 0 of all but `place` means "nothing of the kind here"
HEADS: dict[str, int] = {
    "place": len(PLACES),
    "digit": 11,
    "color": 7,
    **{f"digit_{direction}": 11 for direction in DIRECTIONS},
    **{f"color_{direction}": 7 for direction in DIRECTIONS},
    "word": len(WORDS) + 1,
    **{f"number_{place}": 11 for place in range(3)},
}
# Weights for training the tower: digits are learned last, and everything else depends on them.
WEIGHTS: dict[str, float] = dict.fromkeys(HEADS, 0.5) | {"digit": 5.0, "word": 2.0}
WEIGHTS |= {f"number_{place}": 2.0 for place in range(3)}


def _cell_classes(scene: Scene, cell: int) -> list[int]:
    digit = scene.at(cell)
    row = [cell, digit.value + 1 if digit else 0, _NAMES.index(digit.color) + 1 if digit else 0]
    around = [scene.beside(cell, direction) for direction in DIRECTIONS]
    row += [other.value + 1 if other else 0 for other in around]
    row += [_NAMES.index(other.color) + 1 if other else 0 for other in around]
    sign = next((s for s in scene.signs if cell in (s.cell, s.cell + 1)), None)
    row.append(WORDS.index(sign.text) + 1 if sign and not sign.is_number else 0)
    number = sign.text if sign and sign.is_number else ""
    return row + [int(number[i]) + 1 if i < len(number) else 0 for i in range(3)]


def patch_targets(scene: Scene) -> NDArray[np.int64]:
    """Classes of every patch, (patches, heads), in the order of HEADS. A patch belongs to the cell of its centre."""
    table = np.array([_cell_classes(scene, cell) for cell in range(GRID * GRID)], dtype=np.int64)
    cells = [int((index + 0.5) * PATCH / CELL) for index in range(PATCHES)]
    return table[[row * GRID + column for row in cells for column in cells]]


class PatchHeads(nn.Module):
    """One linear reader per head on the tower's patch features."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.read = nn.Linear(hidden, sum(HEADS.values()))

    def loss(
        self, features_BPD: torch.Tensor, targets_BPH: torch.Tensor, weights: Mapping[str, float]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The weighted mean of the heads' cross entropies, and each head's accuracy on patches that are not empty."""
        logits = self.read(self.norm(features_BPD)).split(list(HEADS.values()), dim=-1)
        losses, accuracy = [], {}
        for index, (name, head) in enumerate(zip(HEADS, logits, strict=True)):
            target = targets_BPH[..., index]
            occupied = target > 0 if name != "place" else torch.ones_like(target, dtype=torch.bool)
            # Most cells are empty. Without a lower weight for them, only "nothing" is learned for a long time.
            each = cross_entropy(head.flatten(0, 1), target.flatten(), reduction="none")
            share = torch.where(occupied, 1.0, 0.2).flatten()
            losses.append(weights[name] * (each * share).sum() / share.sum())
            accuracy[name] = (head.argmax(-1) == target)[occupied].float().mean().item()
        return torch.stack(losses).sum() / sum(weights.values()), accuracy
