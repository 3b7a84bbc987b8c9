"""The parts of PruMerge: scores of one big head, outliers of attention, the raster's grid, and the merging.

Shapes: I images, P patches, S that stay, N = 1 + P tokens with the class token first, D width of the tower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Vision


def one_big_head(vision: Vision) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attention of the class token to each patch (I, P) float32, and the patches' keys and features, (I, P, D).

    The layer is the one after the features, with the features as its input. Its queries and keys are not split into
    heads: one softmax over all N keys, divided by the root of D. If the features are those of the tower's last layer,
    it is that layer with its own input. Raises ValueError for a tower without a class token.
    """
    import torch

    from hidrop.runtime.fsdp import within

    layer, states, features = vision.states()
    if (later := vision.backbone.layer_after_features(vision)) is not None:
        layer, states = later, features

    def query_and_keys(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normed = layer.layer_norm1(states)
        return layer.self_attn.q_proj(normed[:, 0]), layer.self_attn.k_proj(normed)

    query_ID, key_IND = within(layer, query_and_keys, states)
    logits = torch.einsum("id,ind->in", query_ID, key_IND).float() * key_IND.shape[-1] ** -0.5
    return logits.softmax(-1)[:, 1:], key_IND[:, 1:], features[:, 1:]


def outliers(seen_IP: torch.Tensor) -> torch.Tensor:
    """How many patches of each image get more than Q3 + 1.5 (Q3 - Q1), the quartiles of its patches, (I,)."""
    low, high = (seen_IP.quantile(share, dim=1, keepdim=True) for share in (0.25, 0.75))
    return (seen_IP > high + 1.5 * (high - low)).sum(1)


def raster_grid(patches: int, count: int) -> range:
    """The patches that PruMerge+ adds to `count` outliers: every s-th one, the last patch never among them.

    s = int(int(1 / share) / 3), where share = count / patches. The released code divides by zero without outliers, and
    has a step of zero if they are more than a third: here no outlier counts as one, and s is at least 1.
    """
    return range(0, patches - 1, max(1, patches // max(1, count) // 3))


def with_grid(order_1P: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` patches of one image's order, then the other ones of the raster's grid, (1, S)."""
    import torch

    best = order_1P[:, :count]
    spaced = torch.tensor(raster_grid(order_1P.shape[1], count), device=order_1P.device)
    return torch.cat([best, spaced[~torch.isin(spaced, best)][None]], dim=1)


def evenly_spaced(order_IP: torch.Tensor, best: int, others: int) -> torch.Tensor:
    """The first `best` patches of an order, and `others` in the middles of equal parts of the rest, (I, best + others).

    The rest is taken in raster order.
    """
    import torch

    rest = order_IP[:, best:].sort(dim=1).values
    part = torch.arange(others, device=order_IP.device)
    return torch.cat([order_IP[:, :best], rest[:, (2 * part + 1) * rest.shape[1] // max(1, 2 * others)]], dim=1)


def merged(
    features_IPD: torch.Tensor, keys_IPD: torch.Tensor, seen_IP: torch.Tensor, index_IS: torch.Tensor, neighbours: int
) -> torch.Tensor:
    """The tokens of the patches `index_IS`, in this order, and the extra one for all others, (I, S + 1, D).

    A token is x_i + sum seen_j x_j over the `neighbours` patches j with the most similar keys (cosine), those that stay
    among them, i left out. The sum is not divided by anything, and x are features before any merging. The extra token
    is sum seen_j x_j over the others; it is left out if there are none. Sums are float32.
    """
    import torch

    from hidrop.runtime.scoring import rows

    patches, x_IPD = features_IPD.shape[1], features_IPD.float()
    with torch.autocast(x_IPD.device.type, enabled=False):  # it would multiply in bfloat16
        unit = torch.nn.functional.normalize(keys_IPD.float(), dim=-1)
        near_ISP = (rows(unit, index_IS) @ unit.transpose(1, 2)).scatter(2, index_IS[..., None], -torch.inf)
        nearest = near_ISP.argsort(dim=-1, descending=True, stable=True)[..., : min(neighbours, patches - 1)]
        seen_ISP = seen_IP[:, None].expand(-1, index_IS.shape[1], -1)
        weight_ISP = torch.zeros_like(near_ISP).scatter(2, nearest, seen_ISP.gather(2, nearest))
        found = rows(x_IPD, index_IS) + weight_ISP @ x_IPD
        if index_IS.shape[1] < patches:
            found = torch.cat([found, seen_IP.scatter(1, index_IS, 0)[:, None] @ x_IPD], dim=1)
    return found.to(features_IPD.dtype)
