"""A smaller image: the vision tower sees it at `side` x `side` patches. A null baseline for choosing and merging.

The preprocessed pixels are resized (bicubic with antialiasing) and the tower's position embeddings are interpolated,
so the tower itself has less work too.

Towers for images of any size (Qwen) need neither: their processor gets a smaller image of the same shape, and the model
runs unreduced. The processor comes before the model, so an evaluation does that, and `reduce` refuses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from baselines.encoded import TILES, Encoded
from hidrop.geometry import Geometry
from hidrop.plan import Schedule
from hidrop.reducer import BudgetError

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Backbone, Vision
    from hidrop.runtime.scoring import Prompt


@dataclass(frozen=True)
class Downsample(Encoded):
    """`side` squared visual tokens: those of the image at `side` x `side` patches."""

    side: int

    name: ClassVar[str] = "downsample"
    null_baseline: ClassVar[bool] = True
    counts: ClassVar[tuple[str, ...]] = ("side",)
    resizes: ClassVar[bool] = True

    @property
    def tokens(self) -> int:
        return self.side**2

    def schedule(self, geometry: Geometry) -> Schedule:
        schedule, whole = super().schedule(geometry), math.isqrt(geometry.visual_tokens)
        if whole**2 != geometry.visual_tokens and not geometry.dynamic:
            raise ValueError(f"downsample: an image of {geometry.visual_tokens} tokens is not a square of patches")
        if not 1 <= self.side <= whole:
            raise ValueError(f"side: {self.side} must be in 1..{whole}, the image's patches a side")
        return schedule

    @classmethod
    def refuses(cls, family: type[Backbone]) -> str | None:
        """Families with tiles, and images of one size that the tower cannot see smaller. No attention is needed."""
        from hidrop.backbones import Backbone

        if family.line_ends:
            return TILES
        if not family.interpolates and family.token_side is Backbone.token_side:
            return f"{family.title}: it takes no other image than its processor makes, and its images have one size"
        return None

    def check_backbone(self, backbone: Backbone) -> None:
        super().check_backbone(backbone)
        if not backbone.interpolates:
            way = "a matrix makes it smaller; in your own code, give it one of the size that Downsample.smaller says"
            raise ValueError(f"downsample: {backbone.title}: it takes no other image than its processor makes; {way}")

    def smaller(self, rows: int, columns: int, geometry: Geometry) -> tuple[int, int]:
        """Rows and columns of tokens of an image that would have `rows` x `columns`, brought to its share of them.

        The share is `side` squared of `geometry.visual_tokens`. Of all grids whose shape is that of the image, rounded
        to whole tokens, it is the one whose size is nearest to the share (of two the smaller one). In pixels: times
        those of a token's side (28 in Qwen2-VL and Qwen2.5-VL, 32 in Qwen3-VL), which their processors leave as it is.
        """
        wanted = self.tokens / geometry.visual_tokens * rows * columns
        shapes = {(row, max(1, round(row * columns / rows))) for row in range(1, rows + 1)}
        shapes |= {(max(1, round(column * rows / columns)), column) for column in range(1, columns + 1)}
        return min(shapes, key=lambda shape: (abs(shape[0] * shape[1] - wanted), shape[0] * shape[1], shape))

    def compress(self, vision: Vision) -> list[torch.Tensor]:
        return self.resized(vision).features()

    def regridded(self, prompt: Prompt) -> Prompt:
        """The tokens are the first ones of each image, in the raster order of the smaller one."""
        media, valid = prompt.media, prompt.visual_valid_BV

        def stated(table: torch.Tensor, number: int) -> torch.Tensor:
            return table.masked_fill(valid, number)

        return replace(
            prompt,
            media=replace(
                media,
                frame_inside_BV=media.inside_BV,
                size_BV=stated(media.size_BV, self.tokens),
                rows_BV=stated(media.rows_BV, self.side),
                columns_BV=stated(media.columns_BV, self.side),
            ),
        )

    def resized(self, vision: Vision) -> Vision:
        import torch

        pixels, patch = vision.pixel_values, vision.backbone.patch_size
        size = (self.side * patch, self.side * patch)
        small = torch.nn.functional.interpolate(pixels.float(), size=size, mode="bicubic", antialias=True)
        return vision.with_pixels(small.to(pixels))

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        """The nearest square: 64 of 576 is 8 x 8 and exact, 192 becomes 14 x 14 = 196."""
        whole = math.isqrt(geometry.visual_tokens)
        if not 0.5 <= average <= whole**2 + 0.5:
            raise BudgetError(f"squares of 1..{whole} patches a side", (1.0, float(whole**2)))
        side = min(range(1, whole + 1), key=lambda n: abs(n * n - average))
        return cls(**{**params, "side": side})
