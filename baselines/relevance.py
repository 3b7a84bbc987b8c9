"""How relevant visual tokens are to a question, from 0 to 1 within each image, and the weights that follow from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.scoring import Prompt

# By embeddings, a smaller range means that no token is more relevant than another. By CLIP, it is added to all.
SMALL = 1e-6


def weights(prompt: Prompt, text_tower: str | None, weight: float | None) -> torch.Tensor:
    """What the unit vector of each visual token is multiplied by, (B, V): by CLIP, or without it by embeddings.

    `weight`: see `weighed`; None is that of the released code, 1 by CLIP and 0.5 by embeddings.
    """
    if text_tower is None:
        return weighed(by_embeddings(prompt), 0.5 if weight is None else weight)
    return weighed(by_clip(prompt, text_tower), 1.0 if weight is None else weight)


def by_embeddings(prompt: Prompt) -> torch.Tensor:
    """By the cosine of a visual token and the mean input embedding of the question's tokens, (B, V) float32.

    The question is all unlabelled text after the last image. Without one, all tokens are equally relevant.
    """
    import torch

    # The sum is as good as the mean: only its direction counts.
    asked_B1D = prompt.question_BT[:, None].float() @ prompt.text_BTD.float()
    match = torch.cosine_similarity(prompt.visual_BVD.float(), asked_B1D, dim=-1)
    low, high = (of_image(match, prompt.media.medium_BV, how) for how in ("amin", "amax"))
    return torch.where(high - low < SMALL, 1.0, (match - low) / (high - low))


def by_clip(prompt: Prompt, text_tower: str) -> torch.Tensor:
    """By minus the cosine of a patch and the question in CLIP's space, (B, V) float32. Waits for the device.

    The sign is the released one: in CLIP's space, patches of what the text names match it less than others. Its authors
    have seen this with CLIP only.
    """
    from baselines.clip_relevance import cosines

    match = -cosines(prompt, text_tower)
    low, high = (of_image(match, prompt.media.medium_BV, how) for how in ("amin", "amax"))
    return (match - low + SMALL) / (high - low).clamp(min=SMALL)


def of_image(value_BV: torch.Tensor, medium_BV: torch.Tensor, how: str) -> torch.Tensor:
    """For each token the least ("amin") or largest ("amax") value of its own image's tokens, (B, V)."""
    number = (medium_BV + 1).flatten()  # images are numbered through the batch; fillers have 0
    table = value_BV.new_zeros(number.numel() + 1)
    return table.scatter_reduce(0, number, value_BV.flatten(), how, include_self=False)[number].view_as(value_BV)


def weighed(rho_BV: torch.Tensor, weight: float) -> torch.Tensor:
    """What unit vectors are multiplied by: exp(t rho / (2 (1 - t))) for a `weight` t, rho itself for 1 (CDPruner)."""
    return rho_BV if weight == 1 else (weight / (2 * (1 - weight)) * rho_BV).exp()
