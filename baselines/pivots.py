"""Pivots among the tokens of a prompt, and the visual tokens that each of them takes: for `dart`.

B batch, N slots of the sequence, V visual slots, T text slots, P pivots, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from baselines.set_order import set_order
from hidrop.runtime.scoring import rows
from hidrop.topk import marked, top_indices

if TYPE_CHECKING:
    from hidrop.runtime.scoring import View


@dataclass(frozen=True)
class Pivots:
    """Pivots in the order of their turns. `slot_BP`: their slots; `there_BP`: which of them there are in a row.

    `image_BV`: which visual tokens are pivots.
    """

    slot_BP: torch.Tensor
    there_BP: torch.Tensor
    image_BV: torch.Tensor

    def in_set_order(self, view: View) -> Pivots:
        """The same in the order of a Python set of their places in the prompt (without padding)."""
        place_BN = ((view.order_BN >= 0).long().cumsum(1) - 1).clamp(min=0)
        turn_BP = set_order(place_BN.gather(1, self.slot_BP), self.there_BP)
        return Pivots(self.slot_BP.gather(1, turn_BP), self.there_BP.gather(1, turn_BP), self.image_BV)


def largest(view: View, size_BN: torch.Tensor, asked_BT: torch.Tensor, image: int, text: int) -> Pivots:
    """The `image` largest visual tokens, no more than stay, then the `text` largest of the text tokens `asked_BT`.

    Each of the two with the largest first; of equal ones the earlier.
    """
    image_BP = top_indices(size_BN.gather(1, view.visual_BV), view.valid_BV, image)
    number = torch.arange(image_BP.shape[1], device=image_BP.device)
    image_there_BP = number < view.cut.keep_B[:, None]
    text_BP = top_indices(size_BN.gather(1, view.text_BT), asked_BT, text)
    return Pivots(
        slot_BP=torch.cat([view.visual_BV.gather(1, image_BP), view.text_BT.gather(1, text_BP)], 1),
        there_BP=torch.cat([image_there_BP, asked_BT.gather(1, text_BP)], 1),
        image_BV=marked(torch.where(image_there_BP, image_BP, -1), view.valid_BV.shape[1]),
    )


def after_the_image(view: View) -> torch.Tensor:
    """Which text slots hold a token behind the row's last visual token that is no answer, (B, T)."""
    last_B1 = view.order_BN.gather(1, view.visual_BV).amax(1, keepdim=True)
    return view.asked_BT & (view.order_BN.gather(1, view.text_BT) > last_B1)


def take_turns(view: View, pivots: Pivots, norm: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Which visual tokens stay, (B, V): the row's `keep` ones, pivots included.

    One pivot after the other takes what is left to take over the pivots left, rounded up, of the tokens that are left:
    those with the smallest cosine between the states after `norm` (of equal ones the earlier).
    """
    pivot_BPD = norm(rows(view.hidden_BND, pivots.slot_BP)).float()
    visual_BVD = norm(view.visual_BVD).float()
    lengths = pivot_BPD.norm(dim=-1)[:, :, None] * visual_BVD.norm(dim=-1)[:, None]
    unlike_BPV = -(pivot_BPD @ visual_BVD.transpose(1, 2)) / lengths.clamp(min=1e-8)
    kept_BV = pivots.image_BV
    for turn in range(pivots.slot_BP.shape[1]):
        pool_BV = view.valid_BV & ~kept_BV
        to_take_B1 = view.cut.keep_B[:, None] - kept_BV.sum(1, keepdim=True)
        left_B1 = pivots.there_BP[:, turn:].sum(1, keepdim=True).clamp(min=1)
        share_B1 = torch.where(pivots.there_BP[:, turn : turn + 1], (to_take_B1 + left_B1 - 1) // left_B1, 0)
        place_BV = top_indices(unlike_BPV[:, turn], pool_BV, pool_BV.shape[1]).argsort(1)
        kept_BV = kept_BV | (pool_BV & (place_BV < share_B1))
    return kept_BV
