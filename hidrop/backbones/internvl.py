"""InternVL3 in transformers' layout: tiles of 448 pixels, 256 tokens each, and a Qwen2, Qwen3 or LLaMA decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from hidrop.backbones.base import Backbone
from hidrop.backbones.model_inputs import Grid, Vision
from hidrop.geometry import Geometry

if TYPE_CHECKING:
    import torch


class InternVL(Backbone):
    """transformers' InternVLForConditionalGeneration.

    `pixel_values` are (tiles, 3, height, width) of all images and frames. The model is not told which tiles make up an
    image, so a tile is a medium of its own here; videos have the placeholders of images.
    """

    model_type: ClassVar[str] = "internvl"
    title: ClassVar[str] = "InternVL3"
    config_class: ClassVar[str] = "InternVLConfig"
    model_class: ClassVar[str] = "InternVLForConditionalGeneration"
    processor_class: ClassVar[str] = "InternVLProcessor"
    image_processor_class: ClassVar[str] = "GotOcr2ImageProcessorPil"
    decoders: ClassVar[tuple[str, ...]] = ("qwen2", "qwen3", "llama")
    towers: ClassVar[tuple[str, ...]] = ("internvl_vision",)

    decoder_at: ClassVar[str] = "model.language_model"
    head_at: ClassVar[str] = "lm_head"
    tower_at: ClassVar[str] = "model.vision_tower"
    projector_at: ClassVar[str] = "model.multi_modal_projector"

    derived_inputs: ClassVar[tuple[str, ...]] = ("image_sizes",)
    vision_settings: ClassVar[tuple[str, ...]] = ("vision_feature_layer", "vision_feature_select_strategy")

    @classmethod
    def geometry_of(cls, config: Any) -> Geometry:
        """Counts are planned for the image of one tile where nobody states another one."""
        sizes = Geometry.of_decoder(config.text_config, cls.tile_tokens(config))
        return replace(sizes, dynamic=True, referenced=False)

    @staticmethod
    def tile_side(config: Any) -> int:
        """Tokens on a side of a tile: the pixel shuffle makes one of several patches."""
        vision = config.vision_config
        side = vision.image_size[0] if isinstance(vision.image_size, (list, tuple)) else vision.image_size
        patch = vision.patch_size[0] if isinstance(vision.patch_size, (list, tuple)) else vision.patch_size
        return int(side // patch * config.downsample_ratio)

    @classmethod
    def tile_tokens(cls, config: Any) -> int:
        return cls.tile_side(config) ** 2

    def grids(self, vision: Vision) -> tuple[tuple[Grid, ...], ...]:
        side = self.tile_side(self.model.config)
        return (((1, side, side),),) * len(vision.pixel_values)

    def features(self, vision: Vision) -> list[torch.Tensor]:
        made = self.model.model.get_image_features(vision.pixel_values, **vision.settings, return_dict=True)
        return list(made.pooler_output)

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        vision = self.model.config.vision_config
        sides = vision.image_size if isinstance(vision.image_size, (list, tuple)) else (vision.image_size,) * 2
        return (vision.num_channels, *sides)

    @property
    def pixel_tokens(self) -> int:
        return self.tile_tokens(self.model.config)

    def medium(self, inputs: Mapping[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": inputs["pixel_values"][number : number + 1]}
