"""Choosing the best tokens of each row: hard, stable, without a wait for the device."""

from __future__ import annotations

import torch


def top_indices(score_BV: torch.Tensor, valid_BV: torch.Tensor, slots: int) -> torch.Tensor:
    """Indices of the `slots` best valid entries of each row, best first, (B, slots).

    Equal scores: the earlier token wins, on every device. Invalid entries come after all valid ones.
    """
    lowest = torch.finfo(score_BV.dtype).min
    ranked = torch.where(valid_BV, score_BV.clamp(min=lowest), -torch.inf)
    return ranked.argsort(dim=1, descending=True, stable=True)[:, :slots]


def keep_top(
    score_BV: torch.Tensor, valid_BV: torch.Tensor, keep_B: torch.Tensor, slots: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `keep_B[b]` best tokens of each row, in their original order.

    Returns indices (B, slots), fillers -1 at the left, and a mask (B, V) of what is kept.
    """
    best = top_indices(score_BV, valid_BV, slots)
    wanted = torch.arange(slots, device=best.device) < keep_B[:, None]
    kept = torch.zeros_like(valid_BV).scatter(1, best, wanted) & valid_BV
    return torch.where(wanted, best, -1).sort(dim=1).values, kept
