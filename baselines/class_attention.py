"""What the class token of a vision tower attends to, in the layer whose output the features are.

That layer is the last but one of CLIP in LLaVA. Its attention and its output belong together: in the authors' codes,
entry -2 of the attentions and entry -2 of the hidden states. Probabilities are a float32 softmax over all keys, the
class token included, and they are not normalised again for the patches. The authors compute them in half precision.

Shapes: I images, P patches, N = 1 + P tokens with the class token first, H heads, d head size, D width of the tower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Vision


@dataclass(frozen=True)
class ClassAttention:
    """The class token's row of each head (I, H, N) in float32, the layer's keys (I, N, H, d) and output (I, N, D)."""

    seen_IHN: torch.Tensor
    keys_INHd: torch.Tensor
    features_IND: torch.Tensor

    @property
    def sum_IP(self) -> torch.Tensor:
        """The attention that each patch gets, summed over heads."""
        return self.seen_IHN.sum(1)[:, 1:]

    @property
    def mean_IP(self) -> torch.Tensor:
        """The attention that each patch gets, averaged over heads."""
        return self.seen_IHN.mean(1)[:, 1:]

    @property
    def patches_IPD(self) -> torch.Tensor:
        """The features of the patches, before the projector."""
        return self.features_IND[:, 1:]


def class_attention(vision: Vision) -> ClassAttention:
    """The class token's attention in each image. Raises ValueError for a tower without a class token."""
    import torch

    from hidrop.runtime.fsdp import within

    layer, before, features = vision.states()
    attention = layer.self_attn

    def queries_and_keys(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normed = layer.layer_norm1(states)
        return attention.q_proj(normed[:, 0]), attention.k_proj(normed)

    made = within(layer, queries_and_keys, before)
    # (I, H, d) of the class token, (I, N, H, d)
    query, keys = (x.unflatten(-1, (attention.num_heads, -1)) for x in made)
    logits = torch.einsum("ihd,inhd->ihn", query, keys).float() * keys.shape[-1] ** -0.5
    return ClassAttention(logits.softmax(-1), keys, features)


def check_patches(keep: int, patches: int) -> None:
    """Raises ValueError for more tokens than an image has patches.

    With `vision_feature_select_strategy: full` the class token counts as one of the image's visual tokens.
    """
    if keep > patches:
        raise ValueError(f"keep: {keep} tokens, but an image has {patches} patches besides the class token")
