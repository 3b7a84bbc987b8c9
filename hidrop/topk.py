"""Choosing the best tokens of each row: hard and stable, with a soft mask for the gradient; no wait for the device."""

from __future__ import annotations

import torch


def top_indices(score_BV: torch.Tensor, valid_BV: torch.Tensor, slots: int) -> torch.Tensor:
    """Indices of the `slots` best valid entries of each row, best first, (B, slots).

    Equal scores: the earlier token wins, on every device. Invalid entries come after all valid ones.
    """
    lowest = torch.finfo(score_BV.dtype).min
    ranked = torch.where(valid_BV, score_BV.clamp(min=lowest), -torch.inf)
    return ranked.argsort(dim=1, descending=True, stable=True)[:, :slots]


def keep_top(score_BV: torch.Tensor, valid_BV: torch.Tensor, keep_B: torch.Tensor, slots: int) -> torch.Tensor:
    """The `keep_B[b]` best tokens of each row, in their original order: indices (B, slots), fillers -1 at the left."""
    best = top_indices(score_BV, valid_BV, slots)
    wanted = torch.arange(slots, device=best.device) < keep_B[:, None]
    return torch.where(wanted, best, -1).sort(dim=1).values


def tied_counts(score_BV: torch.Tensor, valid_BV: torch.Tensor, keep_B: torch.Tensor) -> torch.Tensor:
    """How many tokens of each row score at least as much as its `keep_B[b]`-th best, (B,); 0 where that is 0.

    With distinct scores this is `keep_B`.
    """
    ranked = torch.where(valid_BV, score_BV, -torch.inf)
    place_B1 = (keep_B[:, None] - 1).clamp(min=0)
    least_B1 = ranked.sort(dim=1, descending=True).values.gather(1, place_B1)
    return torch.where(keep_B > 0, (valid_BV & (ranked >= least_B1)).sum(1), 0)


def marked(index_BK: torch.Tensor, count: int) -> torch.Tensor:
    """Indices, -1 for none, as a mask (B, count)."""
    mask = torch.zeros(index_BK.shape[0], count + 1, dtype=torch.bool, device=index_BK.device)
    return mask.scatter(1, torch.where(index_BK >= 0, index_BK, count), True)[:, :count]


def soft_mask(score_BV: torch.Tensor, valid_BV: torch.Tensor, keep_B: torch.Tensor) -> torch.Tensor:
    """HiDrop's DTop-K: sigmoid(n (c' - a)), a = 1 - k / n, with c' the rank of a score as a share of n tokens, (B, V).

    Above 1/2 for exactly the `keep_B` tokens that `keep_top` keeps. Forward, c' is the rank itself, (1/n) sum_j
    [c_i >= c_j], ties in favour of the earlier token; it is a step function and has no gradient. Backward, it is
    `uniform_rank` of the scores. O(n log n). 0 for what is not valid.
    """
    count = valid_BV.sum(1, keepdim=True).clamp(min=1)
    place = top_indices(score_BV.detach(), valid_BV, score_BV.shape[1]).argsort(dim=1)
    smooth = count * uniform_rank(score_BV, valid_BV)
    # n (c' - a) is k minus the place in the order, a whole number, so that a half is exactly a half.
    return torch.where(valid_BV, torch.sigmoid(keep_B[:, None] - place + (smooth - smooth.detach())), 0)


def uniform_rank(score_BV: torch.Tensor, valid_BV: torch.Tensor) -> torch.Tensor:
    """The scores of each row moved and scaled to the mean 1/2 and the variance 1/12 that ranks have, (B, V).

    A smooth stand-in for the rank: like it, it does not change when the scores are moved or scaled. Rows whose scores
    are all equal get 1/2 and no gradient.
    """
    count = valid_BV.sum(1, keepdim=True).clamp(min=1)
    score = torch.where(valid_BV, score_BV, 0)
    apart = torch.where(valid_BV, score - score.sum(1, keepdim=True) / count, 0)
    variance = apart.square().sum(1, keepdim=True) / count
    # The mean of equal scores may be rounded away from them, which leaves a tiny variance and a huge gradient.
    lowest = torch.where(valid_BV, score_BV, torch.inf).amin(1, keepdim=True)
    highest = torch.where(valid_BV, score_BV, -torch.inf).amax(1, keepdim=True)
    flat = (variance == 0) | (lowest >= highest)
    return torch.where(flat, 0.5, 0.5 + apart / (12 * torch.where(flat, 1, variance)).sqrt())
