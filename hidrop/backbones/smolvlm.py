"""SmolVLM: a SigLIP tower, tiles and the whole image, a pixel shuffle, and a LLaMA decoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from hidrop.backbones import processing
from hidrop.backbones.asking import Asking
from hidrop.backbones.base import Backbone
from hidrop.backbones.config_fields import ConfigFields
from hidrop.backbones.model_inputs import Grid, Vision
from hidrop.geometry import Geometry

if TYPE_CHECKING:
    import torch

    from hidrop.backbones.attended import Attended

# Tiles of the image that plans are printed for: 4 x 4 at the longest edge of SmolVLM and Idefics3, and the whole image.
MOST_SEEN = 17


class SmolFields(ConfigFields):
    """A config.json."""

    scale_factor: Annotated[int, Field(strict=True, ge=1, le=64)] = 2


class SmolVLM(Backbone):
    """transformers' SmolVLMForConditionalGeneration.

    `pixel_values` are (prompts, tiles, 3, height, width); a prompt with fewer tiles than others of the batch is filled
    up with tiles of zeros. `pixel_attention_mask` (prompts, tiles, height, width) marks pixels that are no padding.
    A tile is a medium of its own. Videos come as images, one for each frame.
    """

    model_type: ClassVar[str] = "smolvlm"
    title: ClassVar[str] = "SmolVLM"
    config_class: ClassVar[str] = "SmolVLMConfig"
    model_class: ClassVar[str] = "SmolVLMForConditionalGeneration"
    processor_class: ClassVar[str] = "SmolVLMProcessor"
    image_processor_class: ClassVar[str] = "SmolVLMImageProcessorPil"
    image_processor_folder: ClassVar[str] = "smolvlm"
    image_processor_aliases: ClassVar[tuple[str, ...]] = ("Idefics3ImageProcessor",)
    fields: ClassVar[type[ConfigFields]] = SmolFields
    decoders: ClassVar[tuple[str, ...]] = ("llama",)
    towers: ClassVar[tuple[str, ...]] = ("smolvlm_vision", "smolvlm", "siglip_vision_model", "idefics3_vision")

    decoder_at: ClassVar[str] = "model.text_model"
    head_at: ClassVar[str] = "lm_head"
    tower_at: ClassVar[str] = "model.vision_model"
    projector_at: ClassVar[str] = "model.connector"

    # lmms-eval has no class of its own for it, and its general one for transformers' models runs it.
    asking: ClassVar[Asking | None] = Asking("huggingface", longest=4096)
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "pixel_attention_mask")
    media_axis: ClassVar[int] = 1
    refused_inputs: ClassVar[tuple[str, ...]] = (*Backbone.refused_inputs, "image_hidden_states")

    @classmethod
    def geometry_of(cls, config: Any) -> Geometry:
        """Plans are printed for the image of the most tiles where nobody states another one."""
        sizes = Geometry.of_decoder(config.text_config, MOST_SEEN * cls.tile_side(config) ** 2)
        return replace(sizes, dynamic=True, referenced=False)

    @staticmethod
    def tile_side(config: Any) -> int:
        """Tokens on a side of a tile: the pixel shuffle makes one of several patches."""
        return config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor

    @classmethod
    def size_problems(cls, config: Any) -> Iterator[str]:
        yield from super().size_problems(config)
        side = config.vision_config.image_size // config.vision_config.patch_size
        if side % config.scale_factor:
            yield f"scale_factor: {side} patches on a side are not a multiple of {config.scale_factor}"

    @classmethod
    def processor_settings(cls, config: Any) -> dict[str, Any]:
        return {"image_seq_len": cls.tile_side(config) ** 2}

    @classmethod
    def processor_of(cls, config: Any, tokenizer: Any, image_processor: Any, **settings: Any) -> Any:
        """Idefics3's class: it does the same with images, and SmolVLM's own refuses to start without num2words."""
        return processing.images_only("Idefics3Processor", cls.processor_class)(
            image_processor=image_processor,
            tokenizer=tokenizer,
            chat_template=tokenizer.chat_template,
            **{**cls.processor_settings(config), **settings},
        )

    @classmethod
    def image_tokens_of(cls, config: Any, height: int, width: int, image_processor: Any) -> int:
        """By the image processor's tiles, and the whole image after them."""
        tiles, _, _ = image_processor.get_number_of_image_patches(height, width)
        return cls.tile_side(config) ** 2 * max(1, tiles)

    def vision(self, inputs: Mapping[str, Any]) -> Vision | None:
        """Tiles of zeros are left out here, and the tiles of all prompts are one row of media."""
        vision = super().vision(inputs)
        if vision is None:
            return None
        there = vision.pixel_values.flatten(2).any(-1)  # (prompts, tiles)
        for name, value in vision.inputs.items():
            if value.shape[:2] != there.shape:
                raise ValueError(
                    f"{name}: {tuple(value.shape[:2])} prompts and tiles, but pixel_values have {tuple(there.shape)}"
                )
        return replace(vision, inputs={name: value[there][None] for name, value in vision.inputs.items()})

    def media(self, inputs: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        return inputs["pixel_values"].shape[1], 0

    def medium(self, inputs: Mapping[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
        return {name: value[:, number : number + 1] for name, value in inputs.items()}

    def grids(self, vision: Vision) -> tuple[tuple[Grid, ...], ...]:
        side = self.tile_side(self.model.config)
        return (((1, side, side),),) * vision.count

    def features(self, vision: Vision) -> list[torch.Tensor]:
        import torch

        made = self.model.model.get_image_features(**vision.inputs, return_dict=True)
        # (tiles, tokens, D) in transformers 5.17, (tiles x tokens, D) of each prompt later.
        return list(torch.cat(list(made.pooler_output)).split(self.tile_side(self.model.config) ** 2))

    def attended(self, vision: Vision) -> list[Attended]:
        from hidrop.backbones.attended import squares

        attention = self.tower.encoder.layers[-1].self_attn
        return squares(attention, lambda: self.features(vision), self.tile_side(self.model.config))

    def joined(self, images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Tiles of zeros are put behind those of prompts with fewer tiles."""
        import torch

        most = max((one["pixel_values"].shape[1] for one in images), default=0)

        def filled(value: torch.Tensor) -> torch.Tensor:
            return torch.cat([value, value.new_zeros(1, most - value.shape[1], *value.shape[2:])], 1)

        return super().joined([{name: filled(value) for name, value in one.items()} for one in images])

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        vision = self.model.config.vision_config
        return MOST_SEEN, vision.num_channels, vision.image_size, vision.image_size

    @property
    def pixel_tokens(self) -> int:
        return MOST_SEEN * self.tile_side(self.model.config) ** 2
