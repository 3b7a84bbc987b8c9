"""The tokens that are in a layer: text and visual ones, in the order of the prompt. Shapes as in layout.py; D hidden.

An `order` number is the place of a token in the prompt, -1 for a filler (layout.py).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from hidrop.runtime.precomputed_keys import Projected, with_keys
from hidrop.runtime.scoring import rows


@dataclass(frozen=True)
class Tokens:
    """Some tokens of each row: hidden states (B, K, D) and their order in the prompt (B, K), -1 for fillers.

    `projected`: of visual tokens that are about to enter a layer, where that was made ahead.
    """

    hidden: torch.Tensor
    order: torch.Tensor
    projected: Projected | None = None

    def after(self, other: Tokens) -> Tokens:
        return Tokens(torch.cat([other.hidden, self.hidden], 1), torch.cat([other.order, self.order], 1))


class Sequence:
    """Text and visual tokens in the order of the prompt, fillers at the left.

    `text` and `visual` are slots in it. `rope` belongs to the slots, not to the layer: (cos, sin), (B, N, head).
    `keys`: what the next layer's k_proj makes of the sequence, (B, N, heads * head), where a score has needed that.
    """

    rope: tuple[torch.Tensor, torch.Tensor]
    keys: torch.Tensor | None = None

    def __init__(self, text: Tokens, visual: Tokens | None) -> None:
        both = text if visual is None else visual.after(text)
        self.order, index = both.order.sort(dim=1, stable=True)
        self.hidden = rows(both.hidden, index)
        where = index.argsort(dim=1)
        self.text, self.visual = where[:, : text.order.shape[1]], where[:, text.order.shape[1] :]
        self.projected = None if visual is None else visual.projected

    def keeping(self, visual: torch.Tensor) -> Sequence:
        """The text and the visual tokens in these slots (-1: a filler). They are in order here: slots are sorted."""
        new = Sequence.__new__(Sequence)
        slots, index = torch.cat([self.text, visual], 1).sort(dim=1, stable=True)
        kept, where = self.part(slots), index.argsort(dim=1)
        new.hidden, new.order = kept.hidden, kept.order
        new.text, new.visual = where[:, : self.text.shape[1]], where[:, self.text.shape[1] :]
        new.projected = None
        new.keys = None if self.keys is None else rows(self.keys, slots)
        return new

    def entering(self, layer: Any) -> AbstractContextManager[None]:
        """A block in which `layer`, the next one, takes what was made ahead for it."""
        if self.keys is not None:
            return with_keys(layer, self.keys)
        return nullcontext() if self.projected is None else self.projected.inside(layer, self.text, self.visual)

    def entered(self) -> None:
        """Forget what was made for a layer that has run."""
        self.projected = self.keys = None

    def part(self, slots: torch.Tensor) -> Tokens:
        """The tokens in these slots; a slot of -1 gives a filler."""
        order = torch.where(slots >= 0, self.order.gather(1, slots.clamp(min=0)), -1)
        return Tokens(rows(self.hidden, slots), order)
