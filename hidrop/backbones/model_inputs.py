"""What a model's forward gets besides text, as the runtime handles it: images, and the positions of tokens.

Shapes: B batch, S input length, P axes of a RoPE position, I images, D hidden size of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from hidrop.backbones.base import Backbone

Rope = tuple["torch.Tensor", "torch.Tensor"]


@dataclass(frozen=True)
class Places:
    """RoPE positions of all places of an input, (P, B, S), and the position that follows the last token, (B,)."""

    position_PBS: torch.Tensor
    next_B: torch.Tensor


def counted_places(valid_BS: torch.Tensor) -> Places:
    """Positions 0, 1, 2, ... of the tokens in their order. Places of padding get some position; nothing reads it."""
    return Places((valid_BS.long().cumsum(1) - 1).clamp(min=0)[None], valid_BS.sum(1))


@dataclass(frozen=True)
class Vision:
    """The images of a batch on their way to the decoder.

    `inputs` are the model's own inputs for them, by name; the first axis of each is the image (LLaVA: `pixel_values`,
    (I, 3, height, width)). `settings` say how features are read off the tower (LLaVA: layer and strategy).
    `interpolated`: the pixels may have another size than the tower's, whose position embeddings are then interpolated.
    """

    backbone: Backbone
    inputs: dict[str, torch.Tensor]
    settings: dict[str, Any]
    interpolated: bool = False

    @property
    def pixel_values(self) -> torch.Tensor:
        return self.inputs["pixel_values"]

    @property
    def count(self) -> int:
        """The number of images."""
        return len(self.pixel_values)

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """The settings as something that can be looked up by."""
        return tuple(sorted((name, str(value)) for name, value in self.settings.items()))

    def only(self, image: int) -> Vision:
        """The same with one of its images, by number."""
        return replace(self, inputs={name: value[image : image + 1] for name, value in self.inputs.items()})

    def pixels_only(self) -> Vision:
        """The same without sizes and the like: what is left to look at once the features are made."""
        return replace(self, inputs={"pixel_values": self.pixel_values})

    def with_pixels(self, pixel_values: torch.Tensor) -> Vision:
        """The same images at another size (bicubic position embeddings, by transformers itself)."""
        return replace(self, inputs={**self.inputs, "pixel_values": pixel_values}, interpolated=True)

    def features(self) -> list[torch.Tensor]:
        """Projected features of each image, (tokens, D): what the decoder gets in the place of its placeholders."""
        return self.backbone.features(self)

    def states(self) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """See `Backbone.tower_states`."""
        return self.backbone.tower_states(self)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Through the projector: (..., hidden size of the tower) to (..., D)."""
        return self.backbone.projector(features)
