"""The greedy choice of a determinantal point process (DPP): the subset whose kernel has a large determinant.

Chen, Zhang and Zhou, NeurIPS 2018 (arXiv 1709.05135): a growing Cholesky factor gives each token's gain, by which the
determinant would grow, and one choice costs as much as one row of the kernel. Shapes: B batch, V tokens, D size of a
token, C choices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# A gain below this share of what a token would add as the first choice is none: after as many choices as tokens have
# dimensions, only rounding is left.
SPANNED = 1e-4


def greedy_order(
    tokens_BVD: torch.Tensor, weight_BV: torch.Tensor | None, valid_BV: torch.Tensor, count: int
) -> torch.Tensor:
    """The order in which `count` tokens of each row are chosen, (B, V) float32: the earlier, the higher.

    The kernel is the cosine of two tokens times their weights (None: 1). Tokens that are not chosen have 0. Of equal
    gains the earlier token wins: without weights, the first choice is the first token. Tokens without any gain are
    taken in their order, after all others. Computed in float32, without waiting for the device.
    """
    import torch

    from hidrop.runtime.scoring import rows

    tokens = torch.nn.functional.normalize(tokens_BVD.float(), dim=-1)
    own = tokens.new_ones(valid_BV.shape)
    if weight_BV is not None:
        tokens, own = tokens * weight_BV[:, :, None], weight_BV.square()
    slots = valid_BV.shape[1]
    place = torch.arange(slots, device=valid_BV.device)
    factor_BVC = tokens.new_zeros(len(tokens), slots, min(count, slots))
    gain, score, left = own, torch.zeros_like(own), valid_BV
    for step in range(factor_BVC.shape[2]):
        gain = torch.where(gain > SPANNED * own, gain, 0)
        best = torch.where(left, gain, -torch.inf).amax(1, keepdim=True)
        pick = torch.where(left & (gain == best), place, slots - 1).amin(1, keepdim=True)
        picked = place == pick
        score = torch.where(picked & left, float(slots - step), score)
        # What the pick shares with each token, and what of it the choices before have taken. These are sums over a last
        # axis: a matrix product, or a sum over another axis, rounds equal tokens differently by their places, and so
        # would not leave the choice between them to their order.
        before_BVC = factor_BVC[:, :, :step]
        similar, known = ((each * rows(each, pick)).sum(-1) for each in (tokens, before_BVC))
        added = gain.gather(1, pick)
        # Nothing is divided by a gain of 0.
        new = torch.where(added > 0, (similar - known) * added.clamp(min=torch.finfo(added.dtype).tiny).rsqrt(), 0)
        factor_BVC[:, :, step] = new
        gain = gain - new.square()
        left = left & ~picked
    return score
