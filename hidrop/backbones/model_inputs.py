"""What a model's forward gets besides text, as the runtime handles it: images and videos, and the positions of tokens.

Shapes: B batch, S input length, P axes of a RoPE position, D hidden size of the decoder. A medium is an image, a video,
or whatever else the tower encodes on its own (a tile of an image, where the model itself does not know which tiles
belong together).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from hidrop.backbones.base import Backbone

# A layer of the tower, its input and its output.
TowerStates = tuple[Any, "torch.Tensor", "torch.Tensor"]
Rope = tuple["torch.Tensor", "torch.Tensor"]
# Frames, rows and columns of visual tokens, in the order of the tokens. A medium has one grid or more, one after the
# other (LLaVA-NeXT: the whole image, then its tiles with their line ends as a last column).
Grid = tuple[int, int, int]
# A grid for people to see: frames, rows and columns of places of the image, and how many tokens after each row are none
# (a line end; a class token is a row of no places and one such token).
Panel = tuple[int, int, int, int]
# Kinds of places in the input.
TEXT, IMAGE, VIDEO = 0, 1, 2


@dataclass(frozen=True)
class Places:
    """RoPE positions of all places of an input, (P, B, S), and the position that follows the last token, (B,)."""

    position_PBS: torch.Tensor
    next_B: torch.Tensor


def counted_places(valid_BS: torch.Tensor) -> Places:
    """Positions 0, 1, 2, ... of the tokens in their order. Places of padding get some position; nothing reads it."""
    return Places((valid_BS.long().cumsum(1) - 1).clamp(min=0)[None], valid_BS.sum(1))


def size_of(grids: Sequence[Grid]) -> int:
    """Visual tokens of a medium with these grids."""
    return sum(frames * rows * columns for frames, rows, columns in grids)


def numbered(kind_BS: torch.Tensor) -> torch.Tensor:
    """The number of each visual place among the features of the batch, (B, S); -1 for text.

    Features of images come first, row after row, then those of videos.
    """
    import torch

    flat = kind_BS.flatten()
    image, video = (flat == IMAGE).long(), (flat == VIDEO).long()
    number = torch.where(flat == VIDEO, image.sum() + video.cumsum(0), image.cumsum(0)) - 1
    return torch.where(flat == TEXT, -1, number).view_as(kind_BS)


@dataclass(frozen=True)
class Vision:
    """The images and videos of a batch on their way to the decoder.

    `inputs` are the model's own inputs for them, by name (LLaVA: `pixel_values`, (images, 3, height, width)).
    `settings` say how features are read off the tower (LLaVA: layer and strategy). `interpolated`: the pixels may have
    another size than the tower's, whose position embeddings are then interpolated. `tower`: where `states` come from,
    if not from the tower itself.
    """

    backbone: Backbone
    inputs: dict[str, torch.Tensor]
    settings: dict[str, Any]
    interpolated: bool = False
    tower: Callable[[Vision], TowerStates] | None = None

    @property
    def pixel_values(self) -> torch.Tensor:
        return self.inputs["pixel_values"]

    @property
    def device(self) -> torch.device:
        return next(iter(self.inputs.values())).device

    @property
    def grids(self) -> tuple[tuple[Grid, ...], ...]:
        """The grids of each medium, images before videos. May wait for the device."""
        return self.backbone.grids(self)

    @property
    def panels(self) -> tuple[tuple[Panel, ...], ...]:
        """The grids of each medium, with places of the image apart from other tokens. May wait for the device."""
        return tuple(tuple(self._panel(grid, number) for number, grid in enumerate(grids)) for grids in self.grids)

    def _panel(self, grid: Grid, number: int) -> Panel:
        """Of a medium's grid with this number."""
        frames, rows, columns = grid
        others = 1 if (rows, columns) == (1, 1) or (number > 0 and self.backbone.line_ends) else 0
        return frames, rows, columns - others, others

    @property
    def count(self) -> int:
        """The number of media."""
        return sum(self.backbone.media(self.inputs))

    @property
    def tokens(self) -> list[int]:
        """Visual tokens of each medium, images before videos. May wait for the device."""
        return [size_of(grids) for grids in self.grids]

    @property
    def sizes(self) -> tuple[int, int]:
        """Visual tokens of all images, and of all videos. May wait for the device."""
        images, _ = self.backbone.media(self.inputs)
        tokens = self.tokens
        return sum(tokens[:images]), sum(tokens[images:])

    @property
    def key(self) -> tuple[tuple[str, str], ...]:
        """The settings as something that can be looked up by."""
        return tuple(sorted((name, str(value)) for name, value in self.settings.items()))

    def only(self, medium: int) -> Vision:
        """The same with one of its media, by number."""
        return replace(self, inputs=self.backbone.medium(self.inputs, medium))

    def with_pixels(self, pixel_values: torch.Tensor) -> Vision:
        """The same images at another size (bicubic position embeddings, by transformers itself)."""
        return replace(self, inputs={**self.inputs, "pixel_values": pixel_values}, interpolated=True)

    def features(self) -> list[torch.Tensor]:
        """Projected features of each medium, (tokens, D): what the decoder gets in the place of its placeholders.

        With DeepStack (tokens, D x (1 + levels)): behind each feature what is added to it after the first layers.
        """
        return self.backbone.features(self)

    def padded(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Features of each medium, (at most `tokens`, D), with zeros behind them up to that number."""
        import torch

        each = zip(features, self.tokens, strict=True)
        return [torch.nn.functional.pad(one, (0, 0, 0, whole - len(one))) for one, whole in each]

    def states(self) -> TowerStates:
        """See `Backbone.tower_states`."""
        return self.backbone.tower_states(self) if self.tower is None else self.tower(self)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Through the projector: (..., hidden size of the tower) to (..., D)."""
        return self.backbone.projector(features)

    def fingerprints(self) -> torch.Tensor:
        """A number for each medium that its pixels decide, (media,) int64: the sum of their bits as integers."""
        import torch

        media = [self] if self.count == 1 else [self.only(medium) for medium in range(self.count)]
        return torch.stack([_bits(self.backbone.pixels(one.inputs)) for one in media])


def _bits(pixels: torch.Tensor) -> torch.Tensor:
    import torch

    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return pixels.contiguous().view(integers[pixels.element_size()]).sum(dtype=torch.int64)
