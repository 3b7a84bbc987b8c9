"""The base of methods that choose tokens by the tower's attention and merge none: FasterVLM, VisPruner, HoloV.

With a class token (LLaVA), a patch's score is the attention that it gets from the class token, averaged over heads; the
class token itself is dropped. Without one (SigLIP, InternViT, Qwen), it is the attention that a token receives from all
of its image, as VisPruner's authors advise (issue 1 of their repository). Tokens are then chosen after the projector
and stay at their places, with what DeepStack adds to them. `keep` is a number of an image with
`geometry.visual_tokens`; another image keeps the same share of its own.

Shapes: I images, P patches (or tokens of a medium), K kept, D width of the features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from baselines.encoded import Encoded
from hidrop.budget import single_cut
from hidrop.geometry import Geometry
from hidrop.plan import Schedule

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Vision


@dataclass(frozen=True)
class Chosen(Encoded):
    """Base: `keep` tokens of each image. A method says in `selected` which ones."""

    keep: int

    counts: ClassVar[tuple[str, ...]] = ("keep",)
    # Whether `selected` looks at projected features where it could also look at the tower's.
    projected: ClassVar[bool] = False

    @property
    def tokens(self) -> int:
        return self.keep

    def selected(self, seen_IP: torch.Tensor, features_IPD: torch.Tensor, keep: int) -> torch.Tensor:
        """The patches that stay, (I, keep), in the order that they have in the sequence. Called without gradients.

        `seen_IP`: the attention to each patch, float32.
        """
        raise NotImplementedError

    def schedule(self, geometry: Geometry) -> Schedule:
        if not 1 <= self.keep <= geometry.visual_tokens:
            raise ValueError(f"keep: {self.keep} must be in 1..{geometry.visual_tokens}, the tokens of an image")
        return super().schedule(geometry)

    def compress(self, vision: Vision) -> list[torch.Tensor]:
        return list(self._with_class_token(vision)) if vision.backbone.class_token else self._received(vision)

    def _with_class_token(self, vision: Vision) -> torch.Tensor:
        """All images of a tower with a class token have the same number of patches: (I, keep, D)."""
        import torch

        from baselines.class_attention import check_patches, class_attention
        from hidrop.runtime.scoring import rows

        tower = class_attention(vision)
        patches = tower.patches_IPD
        check_patches(self.keep, patches.shape[1])
        if self.projected:
            patches = vision.project(patches)
        with torch.no_grad():
            index = self.selected(tower.mean_IP, patches, self.keep)
        kept = rows(patches, index)
        return kept if self.projected else vision.project(kept)

    def _received(self, vision: Vision) -> list[torch.Tensor]:
        """Of each medium the chosen tokens at their places, zeros elsewhere."""
        import torch

        found, backbone = [], vision.backbone
        for one in backbone.attended(vision):
            whole, width = one.features_KD.shape
            own = one.features_KD[:, : width // (1 + backbone.levels)]  # without what DeepStack will add
            with torch.no_grad():
                index = self.selected(one.received_K[None], own[None], self.left(backbone.geometry, whole))[0]
            found.append(torch.zeros_like(one.features_KD).index_copy(0, index, one.features_KD[index]))
        return found

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        return cls(**{**params, "keep": single_cut(average, geometry, 0)})
