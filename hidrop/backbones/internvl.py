"""InternVL3 in transformers' layout: tiles of 448 pixels, 256 tokens each, and a Qwen2, Qwen3 or LLaMA decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from hidrop.backbones.asking import Asking
from hidrop.backbones.base import Backbone
from hidrop.backbones.config_fields import ConfigFields, Layer, Pixels, TowerFields, pair
from hidrop.backbones.model_inputs import Grid, Vision
from hidrop.backbones.pixel_limits import PixelLimits
from hidrop.geometry import Geometry
from hidrop.videos import Sampling, Video

if TYPE_CHECKING:
    import torch

    from hidrop.backbones.attended import Attended
    from hidrop.backbones.filming import Filmed


# Tiles of an image that a checkpoint may ask for, the whole one left out.
MOST_TILES = 256
# Tiles of the image that plans are printed for: InternVL3's 12, and the whole image.
MOST_SEEN = 13


class InternTowerFields(TowerFields):
    """The tower's config, whose sides may be lists of two."""

    image_size: Pixels | tuple[Pixels, Pixels] = 1  # type: ignore[assignment]
    patch_size: Pixels | tuple[Pixels, Pixels] = 1  # type: ignore[assignment]


class InternFields(ConfigFields):
    """A config.json."""

    vision_config: InternTowerFields | None = None
    downsample_ratio: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 0.5
    vision_feature_layer: Layer | None = None
    vision_feature_select_strategy: Literal["default"] = "default"  # "full" keeps the class token, which is no patch


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
    image_processor_folder: ClassVar[str] = "got_ocr2"
    fields: ClassVar[type[ConfigFields]] = InternFields
    decoders: ClassVar[tuple[str, ...]] = ("qwen2", "qwen3", "llama")
    towers: ClassVar[tuple[str, ...]] = ("internvl_vision",)

    decoder_at: ClassVar[str] = "model.language_model"
    head_at: ClassVar[str] = "lm_head"
    tower_at: ClassVar[str] = "model.vision_tower"
    projector_at: ClassVar[str] = "model.multi_modal_projector"

    derived_inputs: ClassVar[tuple[str, ...]] = ("image_sizes",)
    asking: ClassVar[Asking | None] = Asking(
        "internvl_hf",
        longest=1024,
        settings={"min_patches": 1, "max_patches": 12},
        sampling=Sampling(32, spacing="middles"),
    )
    shows_videos: ClassVar[bool] = True
    native_sampling: ClassVar[Sampling] = Sampling(32, spacing="middles")
    vision_settings: ClassVar[tuple[str, ...]] = ("vision_feature_layer", "vision_feature_select_strategy")

    @classmethod
    def geometry_of(cls, config: Any) -> Geometry:
        """Plans are printed for the image of the most tiles where nobody states another one."""
        sizes = Geometry.of_decoder(config.text_config, MOST_SEEN * cls.tile_tokens(config))
        return replace(sizes, dynamic=True, referenced=False)

    @staticmethod
    def tile_side(config: Any) -> int:
        """Tokens on a side of a tile: the pixel shuffle makes one of several patches."""
        (side, _), (patch, _) = pair(config.vision_config.image_size), pair(config.vision_config.patch_size)
        return int(side // patch * config.downsample_ratio)

    @classmethod
    def tile_tokens(cls, config: Any) -> int:
        return cls.tile_side(config) ** 2

    @classmethod
    def size_problems(cls, config: Any) -> Iterator[str]:
        yield from super().size_problems(config)
        (side, _), (patch, _) = pair(config.vision_config.image_size), pair(config.vision_config.patch_size)
        shuffled = side // patch * config.downsample_ratio
        if shuffled != int(shuffled) or not shuffled:
            yield f"downsample_ratio: {config.downsample_ratio} makes {shuffled} tokens of {side // patch} patches"

    @classmethod
    def processor_settings(cls, config: Any) -> dict[str, Any]:
        return {"image_seq_length": cls.tile_tokens(config)}

    @classmethod
    def image_tokens_of(cls, config: Any, height: int, width: int, image_processor: Any) -> int:
        """By the image processor's tiles of the closest aspect ratio, and the whole image if there are several."""
        settings = {"crop_to_patches": True}  # the processor says so, whatever its image processor says
        return cls.tile_tokens(config) * image_processor.get_number_of_image_patches(height, width, settings)

    @classmethod
    def processor_problems(cls, config: Any, image_processor: Any) -> Iterator[str]:
        yield from super().processor_problems(config, image_processor)
        least, most = image_processor.min_patches, image_processor.max_patches
        if not (type(least) is type(most) is int and 1 <= least <= most <= MOST_TILES):
            yield f"the image processor's min_patches {least!r}, max_patches {most!r} are no range up to {MOST_TILES}"

    def film(self, processor: Any, video: Video, asking: Asking, limits: PixelLimits) -> Filmed:
        """Each frame is one tile after its number."""
        from hidrop.backbones.filming import Filmed, squares

        tokens = self.tile_tokens(self.model.config)
        inside = f"{processor.start_image_token}{processor.image_token * tokens}{processor.end_image_token}"
        text = "\n".join(f"Frame{number}: {inside}" for number in range(1, len(video.frames) + 1))
        return Filmed(text, {"pixel_values": squares(video.frames, processor.image_processor)})

    def grids(self, vision: Vision) -> tuple[tuple[Grid, ...], ...]:
        side = self.tile_side(self.model.config)
        return (((1, side, side),),) * len(vision.pixel_values)

    def features(self, vision: Vision) -> list[torch.Tensor]:
        made = self.model.model.get_image_features(vision.pixel_values, **vision.settings, return_dict=True)
        return list(made.pooler_output)

    def attended(self, vision: Vision) -> list[Attended]:
        """Of the layer whose output the features are. Raises ValueError for features of several layers, or of none."""
        from hidrop.backbones.attended import squares

        layers, number = self.tower.encoder.layer, vision.settings["vision_feature_layer"]
        place = number % (len(layers) + 1) if isinstance(number, int) else 0
        if place == 0:
            raise ValueError(f"vision_feature_layer: {number}: this method needs features that one layer has made")
        attention, side = layers[place - 1].attention, self.tile_side(self.model.config)
        return squares(attention, lambda: self.features(vision), side, norms=("q_norm", "k_norm"))

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        vision = self.model.config.vision_config
        return (MOST_SEEN, vision.num_channels, *pair(vision.image_size))

    @property
    def pixel_rows(self) -> int:
        return 0

    @property
    def pixel_tokens(self) -> int:
        return MOST_SEEN * self.tile_tokens(self.model.config)

    def inputs_for(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pixel_values": pixel_values.flatten(0, 1)}

    def medium(self, inputs: Mapping[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": inputs["pixel_values"][number : number + 1]}
