"""The parts of HoloV: scores of patches within their crop, and how many patches each crop keeps.

Shapes: I images, C crops, M patches of the largest crop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SMALL = 1e-6  # what the released code adds to what it divides by
ATTENTION_SCALE = 1000.0


def quotas(weight_IC: torch.Tensor, size_C: torch.Tensor, keep: int) -> torch.Tensor:
    """How many of `keep` patches each crop keeps by its weight, (I, C): no more than it has."""
    import torch

    share_IC = weight_IC / (weight_IC.sum(1, keepdim=True) + SMALL)
    quota_IC = (keep * share_IC).floor().long()
    order_IC = share_IC.argsort(dim=1, descending=True, stable=True)
    place_IC = order_IC.argsort(dim=1)
    quota_IC = quota_IC + (place_IC < keep - quota_IC.sum(1, keepdim=True))
    full_IC = torch.minimum(quota_IC, size_C)
    room_IC = (size_C - full_IC).gather(1, order_IC)
    beyond_I1 = keep - full_IC.sum(1, keepdim=True)
    more_IC = torch.minimum((beyond_I1 - room_IC.cumsum(1) + room_IC).clamp(min=0), room_IC)
    return full_IC + more_IC.gather(1, place_IC)


def scores(
    seen_ICM: torch.Tensor, x_ICMD: torch.Tensor, valid_CM: torch.Tensor, size_C: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Each patch's attention plus its share of the crop's variety, (I, C, M); 0 for what is not valid."""
    import torch

    unit = x_ICMD / (x_ICMD.norm(dim=-1, keepdim=True) + SMALL)
    pair_CMM = valid_CM[:, :, None] & valid_CM[:, None]
    itself = torch.eye(valid_CM.shape[1], dtype=torch.bool, device=x_ICMD.device)
    near = (unit @ unit.transpose(-1, -2)).masked_fill(~pair_CMM | itself, 0)
    others_C11 = (size_C - 1).clamp(min=1)[:, None, None]
    apart = near - near.sum(-1, keepdim=True) / others_C11
    variety = torch.where(pair_CMM, apart.square(), 0).sum(-1) / others_C11[..., 0]
    scale = seen_ICM.sum(-1) / size_C / (variety.sum(-1) / size_C + SMALL)
    return seen_ICM + alpha * scale[..., None] * variety
