"""VisionZip (CVPR 2025, arXiv 2412.04467): dominant tokens by the tower's attention, the rest merged by keys.

With a class token (LLaVA) this happens in the tower's layer whose output are the features. The class token stays as it
is, and so do the `dominant - 1` patches that it attends to most (summed over heads): as in the released code,
`dominant` counts the class token, so that the published 54 + 10 is 64 tokens. Of the other patches, in their order,
`contextual` evenly spaced ones are targets. Each remaining patch joins the target whose key is most similar (cosine,
keys averaged over heads). A target's token is its own feature plus the mean of those that joined it. Everything runs
before the projector, and the text plays no part.

Without one (SigLIP, InternViT, Qwen) a patch counts by the attention that it receives from all of its image, in the
tower's last block that sees all of it, as VisPruner's authors advise (issue 1 of their repository). Several patches
make up a token there: attention and keys are averaged over them, and tokens are chosen and merged after the projector,
with what DeepStack adds to them. Merged tokens take the places of their targets. Numbers are those of an image with
`geometry.visual_tokens`; another image has the same shares of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from baselines.encoded import Encoded
from hidrop.geometry import Geometry
from hidrop.plan import Schedule
from hidrop.reducer import BudgetError, Published

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Vision

# The merged part of the published settings' tokens (54 + 10, 108 + 20, 162 + 30).
MERGED_SHARE = 10 / 64


def contextual_tokens(
    features_IPD: torch.Tensor, keys_IPd: torch.Tensor, rest_IR: torch.Tensor, contextual: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens `rest_IR` merged into `contextual` ones, (I, contextual, D), and the targets' numbers among them."""
    import torch

    from hidrop.runtime.scoring import rows

    metric = torch.nn.functional.normalize(rows(keys_IPd, rest_IR), dim=-1)
    count = rest_IR.shape[1]
    target = torch.arange(contextual, device=rest_IR.device) * max(1, count // contextual)
    joins = torch.ones(count, dtype=torch.bool, device=rest_IR.device).scatter(0, target, False)
    nearest = (metric @ metric[:, target].transpose(1, 2)).argmax(-1)  # (I, count)
    # one_hot would wait for the device, to read the largest number.
    number = torch.arange(contextual, device=rest_IR.device)
    member = ((nearest[..., None] == number) & joins[:, None]).long()
    others = rows(features_IPD, rest_IR)
    weight = member.to(features_IPD.dtype) / member.sum(1, keepdim=True).clamp(min=1).to(features_IPD.dtype)
    return others[:, target] + weight.transpose(1, 2) @ others, target


@dataclass(frozen=True)
class VisionZip(Encoded):
    """`dominant` tokens (a class token counts as one of them) and `contextual` merged ones of each image."""

    dominant: int
    contextual: int

    name: ClassVar[str] = "visionzip"
    counts: ClassVar[tuple[str, ...]] = ("dominant", "contextual")
    paper: ClassVar[str] = (
        "VisionZip: Longer is Better but Not Necessary in Vision Language Models, CVPR 2025, "
        "https://arxiv.org/abs/2412.04467"
    )
    code: ClassVar[str] = "https://github.com/dvlab-research/VisionZip"
    published: ClassVar[Mapping[str, Published]] = {
        "192": Published({"dominant": 162, "contextual": 30}),
        "128": Published({"dominant": 108, "contextual": 20}),
        "64": Published({"dominant": 54, "contextual": 10}),
    }

    @property
    def tokens(self) -> int:
        return self.dominant + self.contextual

    def schedule(self, geometry: Geometry) -> Schedule:
        if self.dominant < 2:
            raise ValueError(f"dominant: {self.dominant} is too few; at least 2, a class token and a patch")
        if self.contextual < 1:
            raise ValueError(f"contextual: {self.contextual} is too few; at least 1")
        if self.tokens > geometry.visual_tokens:
            raise ValueError(
                f"dominant + contextual: {self.tokens} tokens, but an image has {geometry.visual_tokens} at most"
            )
        return super().schedule(geometry)

    def compress(self, vision: Vision) -> list[torch.Tensor]:
        return list(self._with_class_token(vision)) if vision.backbone.class_token else self._received(vision)

    def _with_class_token(self, vision: Vision) -> torch.Tensor:
        """All images of a tower with a class token have the same number of tokens: (I, tokens, D)."""
        import torch

        from baselines.class_attention import class_attention
        from hidrop.runtime.scoring import rows

        tower = class_attention(vision)
        features = tower.features_IND
        best = tower.sum_IP.argsort(dim=1, descending=True, stable=True)
        patches = self.dominant - 1  # the class token is one of the dominant tokens
        kept = best[:, :patches].sort(dim=1).values + 1
        rest = best[:, patches:].sort(dim=1).values + 1
        merged, _ = contextual_tokens(features, tower.keys_INHd.float().mean(2), rest, self.contextual)
        return vision.project(torch.cat([features[:, :1], rows(features, kept), merged], dim=1))

    def _received(self, vision: Vision) -> list[torch.Tensor]:
        """Of each medium its dominant tokens at their places, the merged ones at their targets', zeros elsewhere."""
        import torch

        found = []
        for one in vision.backbone.attended(vision):
            left = self.left(vision.backbone.geometry, len(one.features_KD))
            contextual = min(max(1, self.contextual * left // self.tokens), left - 1)
            best = one.received_K.argsort(descending=True, stable=True)
            kept, rest = best[: left - contextual], best[left - contextual :].sort().values
            made = torch.zeros_like(one.features_KD).index_copy(0, kept, one.features_KD[kept])
            if contextual:
                merged, target = contextual_tokens(one.features_KD[None], one.key_Kd[None], rest[None], contextual)
                made = made.index_copy(0, rest[target], merged[0])
            found.append(made)
        return found

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
