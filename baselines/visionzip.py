"""VisionZip (CVPR 2025, arXiv 2412.04467): dominant tokens by the class token's attention, the rest merged by keys.

This happens in the tower's layer whose output are the features. The class token stays as it is, and so do the
`dominant - 1` patches that it attends to most (summed over heads): as in the released code, `dominant` counts the class
token, so that the published 54 + 10 is 64 tokens. Of the other patches, in their order,
`contextual` evenly spaced ones are targets. Each remaining patch joins the target whose key is most similar (cosine,
keys averaged over heads). A target's token is its own feature plus the mean of those that joined it. Everything runs
before the projector, and the text plays no part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from baselines.encoded import Encoded
from hidrop.geometry import Geometry
from hidrop.plan import Schedule
from hidrop.reducer import BudgetError

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Vision

# The merged part of the published settings' tokens (54 + 10, 108 + 20, 162 + 30).
MERGED_SHARE = 10 / 64


@dataclass(frozen=True)
class VisionZip(Encoded):
    """`dominant` tokens (the class token and `dominant - 1` patches) and `contextual` merged ones of each image."""

    dominant: int
    contextual: int

    name: ClassVar[str] = "visionzip"
    counts: ClassVar[tuple[str, ...]] = ("dominant", "contextual")

    @property
    def tokens(self) -> int:
        return self.dominant + self.contextual

    def schedule(self, geometry: Geometry) -> Schedule:
        if self.dominant < 2:
            raise ValueError(f"dominant: {self.dominant} is too few; at least 2, the class token and a patch")
        if self.contextual < 1:
            raise ValueError(f"contextual: {self.contextual} is too few; at least 1")
        if self.tokens > geometry.visual_tokens:
            raise ValueError(
                f"dominant + contextual: {self.tokens} tokens, but an image has {geometry.visual_tokens} at most"
            )
        return super().schedule(geometry)

    def compress(self, vision: Vision) -> torch.Tensor:
        import torch

        from hidrop.runtime.fsdp import within
        from hidrop.runtime.scoring import rows

        layer, before, features = vision.states()
        attention = layer.self_attn

        def queries_and_keys(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            normed = layer.layer_norm1(states)
            return attention.q_proj(normed[:, 0]), attention.k_proj(normed)

        made = within(layer, queries_and_keys, before)
        # (I, heads, size) of the class token, (I, 1 + P, heads, size)
        query, keys = (x.unflatten(-1, (attention.num_heads, -1)) for x in made)
        logits = torch.einsum("ihd,inhd->ihn", query, keys).float() * keys.shape[-1] ** -0.5
        seen = logits.softmax(-1).sum(1)[:, 1:]
        best = seen.argsort(dim=1, descending=True, stable=True)
        patches = self.dominant - 1  # the class token is one of the dominant tokens
        kept = best[:, :patches].sort(dim=1).values + 1
        rest = best[:, patches:].sort(dim=1).values + 1

        metric = torch.nn.functional.normalize(rows(keys.float().mean(2), rest), dim=-1)
        count = rest.shape[1]
        target = torch.arange(self.contextual, device=rest.device) * max(1, count // self.contextual)
        joins = torch.ones(count, dtype=torch.bool, device=rest.device).scatter(0, target, False)
        nearest = (metric @ metric[:, target].transpose(1, 2)).argmax(-1)  # (I, count)
        # one_hot would wait for the device, to read the largest number.
        number = torch.arange(self.contextual, device=rest.device)
        member = ((nearest[..., None] == number) & joins[:, None]).long()
        others = rows(features, rest)
        weight = member.to(features.dtype) / member.sum(1, keepdim=True).clamp(min=1).to(features.dtype)
        merged = others[:, target] + weight.transpose(1, 2) @ others
        return vision.project(torch.cat([features[:, :1], rows(features, kept), merged], dim=1))

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        """Dominant and contextual tokens in the proportion of the published settings."""
        total = round(average)
        if not 3 <= total <= geometry.visual_tokens:
            raise BudgetError(f"it reaches 3..{geometry.visual_tokens}", (3.0, float(geometry.visual_tokens)))
        contextual = params.setdefault("contextual", max(1, round(total * MERGED_SHARE)))
        if not 1 <= contextual <= total - 2:
            raise BudgetError(f"contextual: {contextual} leaves no dominant patch; at most {total - 2} of {total}")
        return cls(**{**params, "dominant": total - contextual})
