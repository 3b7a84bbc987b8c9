"""A smaller image: the vision tower sees it at `side` x `side` patches. A null baseline for choosing and merging.

The preprocessed pixels are resized (bicubic with antialiasing) and the tower's position embeddings are interpolated,
so the tower itself has less work too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from baselines.encoded import Encoded
from hidrop.geometry import Geometry
from hidrop.plan import Schedule
from hidrop.reducer import BudgetError

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Vision


@dataclass(frozen=True)
class Downsample(Encoded):
    """`side` squared visual tokens: those of the image at `side` x `side` patches."""

    side: int

    name: ClassVar[str] = "downsample"
    counts: ClassVar[tuple[str, ...]] = ("side",)

    @property
    def tokens(self) -> int:
        return self.side**2

    def schedule(self, geometry: Geometry) -> Schedule:
        schedule, whole = super().schedule(geometry), math.isqrt(geometry.visual_tokens)
        if whole**2 != geometry.visual_tokens:
            raise ValueError(f"downsample: an image of {geometry.visual_tokens} tokens is not a square of patches")
        if not 1 <= self.side <= whole:
            raise ValueError(f"side: {self.side} must be in 1..{whole}, the image's patches a side")
        return schedule

    def compress(self, vision: Vision) -> torch.Tensor:
        import torch

        pixels, patch = vision.pixel_values, vision.backbone.patch_size
        size = (self.side * patch, self.side * patch)
        small = torch.nn.functional.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)
        return torch.stack(vision.with_pixels(small.to(pixels)).features())

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        """The nearest square: 64 of 576 is 8 x 8 and exact, 192 becomes 14 x 14 = 196."""
        whole = math.isqrt(geometry.visual_tokens)
        if not 0.5 <= average <= whole**2 + 0.5:
            raise BudgetError(f"squares of 1..{whole} patches a side", (1.0, float(whole**2)))
        side = min(range(1, whole + 1), key=lambda n: abs(n * n - average))
        return cls(**{**params, "side": side})
