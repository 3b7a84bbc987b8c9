"""LLaVA-NeXT (1.6): LLaVA with anyres. An image is seen whole and in tiles, and its shape decides its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from hidrop.backbones.llava import Llava
from hidrop.backbones.model_inputs import Grid, Vision
from hidrop.geometry import Geometry

if TYPE_CHECKING:
    import torch


class LlavaNext(Llava):
    """transformers' LlavaNextForConditionalGeneration.

    `pixel_values` are (I, tiles, 3, height, width), the whole image first; an image with fewer tiles than others of
    the batch is filled up with empty ones. `image_sizes` (I, 2) are heights and widths in pixels.
    """

    model_type: ClassVar[str] = "llava_next"
    title: ClassVar[str] = "LLaVA-NeXT"
    config_class: ClassVar[str] = "LlavaNextConfig"
    model_class: ClassVar[str] = "LlavaNextForConditionalGeneration"
    processor_class: ClassVar[str] = "LlavaNextProcessor"
    image_processor_class: ClassVar[str] = "LlavaNextImageProcessorPil"
    image_processor_folder: ClassVar[str] = "llava_next"
    sees_whole: ClassVar[bool] = True
    line_ends: ClassVar[bool] = True
    sized_by: ClassVar[Mapping[str, str]] = {"pixel_values": "image_sizes"}
    aspects: ClassVar[tuple[str | None, ...]] = (None, "anyres")

    @classmethod
    def geometry_of(cls, config: Any) -> Geometry:
        """The whole image and the most tiles, without line ends: 5 x 576 = 2880, as its tables count."""
        tower = config.vision_config.image_size
        tiles = 1 + max((height // tower) * (width // tower) for height, width in config.image_grid_pinpoints)
        return replace(
            super().geometry_of(config), visual_tokens=cls.square_tokens(config) * tiles, dynamic=True, tiled=True
        )

    @classmethod
    def image_tokens_of(cls, config: Any, height: int, width: int, image_processor: Any) -> int:
        return image_tokens(config, height, width)

    @classmethod
    def processor_problems(cls, config: Any, image_processor: Any) -> Iterator[str]:
        yield from super().processor_problems(config, image_processor)
        yield from pinpoint_problems(config, image_processor)

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        side = self.model.config.vision_config.image_size
        height, width = largest_image(self.model.config)
        return 1 + (height // side) * (width // side), *super().pixel_shape

    @property
    def shapes_images(self) -> bool:
        return True

    @property
    def pixel_tokens(self) -> int:
        return image_tokens(self.model.config, *largest_image(self.model.config))

    def inputs_for(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        import torch

        size = largest_image(self.model.config)
        sizes = torch.tensor([size] * len(pixel_values), device=pixel_values.device)
        return {"pixel_values": pixel_values, "image_sizes": sizes}

    def grids(self, vision: Vision) -> tuple[tuple[Grid, ...], ...]:
        """The whole image, then its tiles without padding; the last column holds the line ends."""
        (whole,) = set(super().grids(vision))
        sizes = vision.inputs["image_sizes"].tolist()
        tiles = [tiled(self.model.config, height, width) for height, width in sizes]
        return tuple((*whole, (1, rows, columns + 1)) for rows, columns in tiles)

    def content(self, image: Vision) -> list[torch.Tensor]:
        """Tiles that only fill up a batch are left out."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        config, size = self.model.config, image.inputs["image_sizes"][0].tolist()
        tiles = image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
        return [image.pixel_values[:, :tiles], image.inputs["image_sizes"]]

    def joined(self, images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        import torch

        most = max((one["pixel_values"].shape[1] for one in images), default=0)

        def filled(pixels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(pixels, (0, 0) * 3 + (0, most - pixels.shape[1]))

        return super().joined([{**one, "pixel_values": filled(one["pixel_values"])} for one in images])


def image_tokens(config: Any, height: int, width: int) -> int:
    """Visual tokens of an image of `height` x `width` pixels, line ends (`image_newline`) included."""
    rows, columns = tiled(config, height, width)
    return (config.vision_config.image_size // config.vision_config.patch_size) ** 2 + rows * (columns + 1)


def tiled(config: Any, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches that an image of `height` x `width` pixels has in its tiles.

    The image is put into the best of `config.image_grid_pinpoints`, cut into tiles of the tower's size, and the rows or
    columns of patches that are nothing but padding are taken out again.
    """
    from transformers.image_processing_utils import select_best_resolution

    tower = config.vision_config
    side = tower.image_size // tower.patch_size
    best_height, best_width = select_best_resolution((height, width), config.image_grid_pinpoints)
    rows, columns = side * (best_height // tower.image_size), side * (best_width // tower.image_size)
    if width / height > columns / rows:
        rows -= 2 * ((rows - _scaled(height, columns / width)) // 2)
    else:
        columns -= 2 * ((columns - _scaled(width, rows / height)) // 2)
    return rows, columns


def pinpoint_problems(config: Any, image_processor: Any) -> Iterator[str]:
    """Whether an image processor cuts images into the tiles that the model expects."""
    stated, wanted = (
        sorted(map(tuple, getattr(one, "image_grid_pinpoints", None) or [])) for one in (image_processor, config)
    )
    if stated != wanted:
        yield f"the image processor's image_grid_pinpoints are {stated}, config.json's are {wanted}"


def largest_image(config: Any) -> tuple[int, int]:
    """Height and width of the pinpoint with the most tiles."""
    height, width = max(config.image_grid_pinpoints, key=lambda pinpoint: pinpoint[0] * pinpoint[1])
    return height, width


def _scaled(length: int, factor: float) -> int:
    return int(round(length * factor, 7))  # 20.999999999999996 is 21
