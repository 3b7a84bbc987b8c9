"""DPC-KNN: density-peak clustering with k nearest neighbours, batched, without waiting for the device."""

from __future__ import annotations

import math

import torch

from hidrop.topk import top_indices


def dpc_knn(x_BMD: torch.Tensor, count_B: torch.Tensor, clusters_B: torch.Tensor, slots: int) -> torch.Tensor:
    """Members of DPC-KNN clusters, (B, M, slots), 1.0 for a member; densest and most separate centre first.

    The first `count_B` tokens of each row form `clusters_B` clusters. A token's density comes from its `clusters_B`
    nearest tokens, itself included. A centre is dense and far from anything denser. A token joins the nearest centre.
    Ties go to the lower index. Distances are Euclidean, divided by sqrt(D).
    """
    size, place = x_BMD.shape[1], torch.arange(x_BMD.shape[1], device=x_BMD.device)
    number = torch.arange(slots, device=x_BMD.device)
    used = number < clusters_B[:, None]
    with torch.no_grad():
        valid = place < count_B[:, None]
        pair = valid[:, :, None] & valid[:, None, :]
        distance = distances(x_BMD) / math.sqrt(x_BMD.shape[2])
        nearest = distance.masked_fill(~pair, torch.inf).topk(slots, largest=False).values
        mean = torch.where(used[:, None], nearest.square(), 0).sum(-1) / clusters_B[:, None].clamp(min=1)
        density = (-mean).exp()
        other, own = density[:, None, :], density[:, :, None]
        denser = (other > own) | ((other == own) & (place[None, :] < place[:, None]))
        apart = distance.masked_fill(~(pair & denser), torch.inf).amin(-1)
        largest = distance.masked_fill(~pair, 0).amax(dim=(1, 2))
        apart = torch.where(apart.isinf(), largest[:, None], apart)
        centre = top_indices(density * apart, valid, slots)
        reach = distance.gather(2, centre[:, None, :].expand(-1, size, -1))
        reach = reach.masked_fill(centre[:, None, :] == place[:, None], -1).masked_fill(~used[:, None], torch.inf)
        joined = reach.argmin(-1, keepdim=True)  # of equal ones the first
        return ((joined == number) & valid[:, :, None]).float()


def distances(x_BMD: torch.Tensor) -> torch.Tensor:
    """Euclidean distances of all pairs in float32, (B, M, M): each pair once, from the differences of its numbers.

    A matrix product loses small distances to rounding. Here equal tokens are at distance 0, and at the same distance
    from any other token.
    """
    first, second = torch.triu_indices(x_BMD.shape[1], x_BMD.shape[1], 1, device=x_BMD.device)
    upper = x_BMD.new_zeros(len(x_BMD), x_BMD.shape[1], x_BMD.shape[1], dtype=torch.float32)
    # torch.cdist takes all prompts at once, but about eight times as long for each pair on a CPU.
    upper[:, first, second] = torch.stack([torch.pdist(row_MD) for row_MD in x_BMD.float()])
    return upper + upper.transpose(1, 2)
