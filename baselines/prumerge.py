"""LLaVA-PruMerge and PruMerge+ (ICCV 2025, arXiv 2403.15388): outliers of attention stay and take up what is like them.

A patch's score is the class token's attention in the tower's layer after the features, computed as one big head. The
patches whose score is an outlier stay, best first; `plus` adds patches at even steps of the raster. Each takes up the
`neighbours` patches with the most similar keys, and one extra token all others. outlier_merging.py has the formulas.
This is the order of the sequence; the class token is dropped. All is before the projector, without the text.

`keep` fixes the number of tokens, the extra one included: the best patches, with `plus` half of them (one more if odd)
and others evenly spaced. The authors published no such rule for inference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from baselines.encoded import LLAVA, Encoded
from hidrop.budget import nearest_count
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import BudgetError, Published

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Backbone, Vision
    from hidrop.runtime.scoring import View


@dataclass(frozen=True)
class PruMerge(Encoded):
    """As many tokens as an image has outliers and 1, or `keep`; `plus`: with others that are evenly spaced."""

    plus: bool = False
    keep: int | None = None
    neighbours: int = 32

    name: ClassVar[str] = "prumerge"
    paper: ClassVar[str] = "LLaVA-PruMerge, ICCV 2025, https://arxiv.org/abs/2403.15388"
    code: ClassVar[str] = "https://github.com/42Shawn/LLaVA-PruMerge"
    published: ClassVar[Mapping[str, Published]] = {
        name: Published({"plus": plus}, LLAVA) for name, plus in (("adaptive", False), ("adaptive-plus", True))
    }
    counts: ClassVar[tuple[str, ...]] = ("keep",)

    @property
    def adaptive(self) -> bool:
        return self.keep is None

    @property
    def tokens(self) -> int:
        assert self.keep is not None  # the adaptive form has no number
        return self.keep

    @classmethod
    def refuses(cls, family: type[Backbone]) -> str | None:
        why = None if family.class_token else f"{family.title}: it needs a vision tower with a class token"
        return super().refuses(family) or why

    def schedule(self, geometry: Geometry) -> Schedule:
        """Of the adaptive form the most that an image may keep: all of it."""
        if self.neighbours < 1:
            raise ValueError(f"neighbours: {self.neighbours} is too few; at least 1")
        if self.keep is None:
            return replace(self, keep=geometry.visual_tokens).schedule(geometry)
        if not 2 <= self.keep <= geometry.visual_tokens:
            raise ValueError(f"keep: {self.keep} must be in 2..{geometry.visual_tokens}, the extra token included")
        return super().schedule(geometry)

    def compress(self, vision: Vision) -> list[torch.Tensor]:
        from baselines.class_attention import check_patches
        from baselines.outlier_merging import evenly_spaced, merged, one_big_head, outliers, with_grid

        seen, keys, features = one_big_head(vision)
        order = seen.argsort(dim=1, descending=True, stable=True)
        if self.keep is not None:
            check_patches(self.keep, seen.shape[1])
            others = (self.keep - 1) // 2 if self.plus else 0
            index = evenly_spaced(order, self.keep - 1 - others, others)
            return list(vision.project(merged(features, keys, seen, index, self.neighbours)))
        found = []
        for image, count in enumerate(outliers(seen).tolist()):
            one = slice(image, image + 1)
            index = with_grid(order[one], count) if self.plus else order[one, :count]
            found.append(vision.project(merged(features[one], keys[one], seen[one], index, self.neighbours))[0])
        return found

    def choose(self, view: View) -> tuple[torch.Tensor, tuple[Cut, ...]]:
        """Every token that `compress` has made, and none of the zeros that fill up an image's features."""
        counts = (view.memory * view.valid_BV).sum(1).long().tolist()
        return view.memory, tuple(Cut(view.layer, count) for count in counts)

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        """The form with a fixed number of tokens."""
        if params.get("keep") is not None:
            raise BudgetError("the budget decides keep; give one of the two")
        most = geometry.visual_tokens
        return cls(**{**params, "keep": nearest_count(average, geometry, 0, geometry.layers, 2, most)})
