"""The tokens that are in a layer: text and visual ones, in the order of the prompt. Shapes as in layout.py; D hidden.

An `order` number is the place of a token in the prompt, -1 for a filler (layout.py).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from hidrop.reducer import DeepStack
from hidrop.runtime.precomputed_keys import Projected, with_keys
from hidrop.runtime.scoring import rows


@dataclass(frozen=True)
class Tokens:
    """Some tokens of each row: hidden states (B, K, D) and their order in the prompt (B, K), -1 for fillers.

    `projected`: of visual tokens that are about to enter a layer, where that was made ahead. `levels`: DeepStack, what
    is added to visual tokens after each of the next layers, (B, K, D) each. `side`: of visual tokens that have not
    entered yet, what the method has noted of them in the tower, (B, K, S).
    """

    hidden: torch.Tensor
    order: torch.Tensor
    projected: Projected | None = None
    levels: tuple[torch.Tensor, ...] = ()
    side: torch.Tensor | None = None

    def after(self, other: Tokens) -> Tokens:
        """Both, with the levels of two visual parts joined."""
        levels = tuple(torch.cat(pair, 1) for pair in zip(other.levels, self.levels, strict=False))
        order = torch.cat([other.order, self.order], 1)
        return Tokens(torch.cat([other.hidden, self.hidden], 1), order, levels=levels)

    def passed(self, layers: int, deepstack: DeepStack) -> Tokens:
        """Visual tokens that enter after `layers` layers which they have not run through.

        carry: a layer that is skipped leaves a token as it is, and what comes between two layers is still added.
        drop: it is lost. shift: it is added after the layers that follow the entry instead.
        """
        if deepstack == "shift" or not layers or not self.levels:
            return self
        hidden = self.hidden
        for level in self.levels[:layers] if deepstack == "carry" else ():
            hidden = hidden + level
        return replace(self, hidden=hidden, levels=self.levels[layers:])


class Sequence:
    """Text and visual tokens in the order of the prompt, fillers at the left.

    `text` and `visual` are slots in it. `rope` belongs to the slots, not to the layer: (cos, sin), (B, N, head).
    `keys`: what the next layer's k_proj makes of the sequence, (B, N, heads * head), where a score has needed that.
    `levels`: of the slots in `visual`, see Tokens.
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
        self.levels = () if visual is None else visual.levels

    def slots(self, index_BK: torch.Tensor) -> torch.Tensor:
        """The slots of some of the visual tokens, by their number in `visual`; -1 for -1."""
        return torch.where(index_BK >= 0, self.visual.gather(1, index_BK.clamp(min=0)), -1)

    def keeping(self, index_BK: torch.Tensor) -> Sequence:
        """The text and some of the visual tokens, by their number in `visual` (-1: a filler), in ascending order."""
        new = Sequence.__new__(Sequence)
        slots, index = torch.cat([self.text, self.slots(index_BK)], 1).sort(dim=1, stable=True)
        kept, where = self.part(slots), index.argsort(dim=1)
        new.hidden, new.order = kept.hidden, kept.order
        new.text, new.visual = where[:, : self.text.shape[1]], where[:, self.text.shape[1] :]
        new.projected = self.projected and self.projected.at(index_BK)
        new.levels = tuple(rows(level, index_BK) for level in self.levels)
        new.keys = None if self.keys is None else rows(self.keys, slots)
        return new

    def entering(self, layer: Any) -> AbstractContextManager[None]:
        """A block in which `layer`, the next one, takes what was made ahead for it."""
        if self.keys is not None:
            return with_keys(layer, self.keys)
        return nullcontext() if self.projected is None else self.projected.inside(layer, self.text, self.visual)

    def entered(self) -> None:
        """Forget what was made for a layer that has run, and add what DeepStack adds after it."""
        self.projected = self.keys = None
        if self.levels:
            level, *rest = self.levels
            place = self.visual[:, :, None].expand_as(level)
            self.hidden = self.hidden + torch.zeros_like(self.hidden).scatter(1, place, level.to(self.hidden))
            self.levels = tuple(rest)

    def visual_part(self, index_BK: torch.Tensor) -> Tokens:
        """Some of the visual tokens, by their number in `visual`, with their levels; -1 gives a filler."""
        return replace(self.part(self.slots(index_BK)), levels=tuple(rows(level, index_BK) for level in self.levels))

    def part(self, slots: torch.Tensor) -> Tokens:
        """The tokens in these slots; a slot of -1 gives a filler."""
        order = torch.where(slots >= 0, self.order.gather(1, slots.clamp(min=0)), -1)
        return Tokens(rows(self.hidden, slots), order)
