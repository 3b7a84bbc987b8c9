"""The order in which CPython goes through a set of whole numbers, as tensor operations: for `dart`.

A set keeps its members in a table of 8 slots, which becomes one of 32 with the fifth member; its order is that of the
slots. A number goes to the slot of its lowest bits. If that is taken, it tries the nine after it, unless the table ends
before; then it jumps to another slot and goes on from there. The larger table is filled in the order of the smaller.
The tests compare with real sets of CPython.

B batch, P numbers of a row, S slots in the order in which a number tries them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SMALL, LARGE, GROWS_AT = 8, 32, 5
LINEAR_PROBES = 9
PERTURB_SHIFT = 5
MOST_MEMBERS = 10  # the others of so many cannot fill ten slots in a row, so that few jumps are enough
MOST_NUMBER = 1 << 20
# Four jumps use up the bits of a number; the later ones meet every slot of the small table, and soon leave the end of
# the large one, where no slots in a row are tried.
JUMPS = 12


def set_order(number_BP: torch.Tensor, member_BP: torch.Tensor) -> torch.Tensor:
    """The places 0 .. P - 1 of each row's numbers in the order of `set` of its members, (B, P); others come last.

    Members are added to the set from left to right. They differ, are not negative, and are below MOST_NUMBER; a row
    has at most MOST_MEMBERS of them.
    """
    import torch

    count_BP = member_BP.long().cumsum(1)
    early = member_BP & (count_BP <= GROWS_AT)
    small_BP = _filled(number_BP, early, SMALL)
    moved = torch.where(early, small_BP, SMALL + count_BP)
    moved = torch.where(member_BP, moved, SMALL + MOST_MEMBERS + 1)
    way = moved.argsort(dim=1, stable=True)
    large = _filled(number_BP.gather(1, way), member_BP.gather(1, way), LARGE)
    large_BP = torch.zeros_like(large).scatter(1, way, large)
    slot = torch.where(count_BP[:, -1:] < GROWS_AT, small_BP, large_BP)
    return torch.where(member_BP, slot, LARGE).argsort(dim=1, stable=True)


def _filled(number_BP: torch.Tensor, member_BP: torch.Tensor, size: int) -> torch.Tensor:
    """The slot of each member in a table of `size`, filled from left to right, (B, P)."""
    import torch

    tried_BPS = _tried(number_BP, size)
    slots = torch.arange(size, device=number_BP.device)
    taken_BT = torch.zeros_like(number_BP[:, :1]).bool().expand(-1, size)
    found = []
    for tried_BS, member_B in zip(tried_BPS.unbind(1), member_BP.unbind(1), strict=True):
        open_BS = (tried_BS >= 0) & ~taken_BT.gather(1, tried_BS.clamp(min=0))
        slot_B1 = tried_BS.gather(1, open_BS.long().argmax(1, keepdim=True))
        taken_BT = taken_BT | ((slots == slot_B1) & member_B[:, None])
        found.append(slot_B1)
    return torch.cat(found, 1)


def _tried(number_BP: torch.Tensor, size: int) -> torch.Tensor:
    """The slots of a table that each number tries, in order, (B, P, S); -1: none."""
    import torch

    mask = size - 1
    slot, perturb, starts = number_BP & mask, number_BP, []
    for _ in range(JUMPS + 1):
        starts.append(slot)
        perturb = perturb >> PERTURB_SHIFT
        slot = (slot * 5 + 1 + perturb) & mask
    start_BPJ1 = torch.stack(starts, 2)[..., None]
    probe = torch.arange(LINEAR_PROBES + 1, device=number_BP.device)
    reached = (probe == 0) | (start_BPJ1 + LINEAR_PROBES <= mask)
    return torch.where(reached, start_BPJ1 + probe, -1).flatten(2)
