"""LLaVA-1.5: a CLIP tower, a projector of two layers, a LLaMA decoder; every image is one square of patches."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hidrop.backbones.base import Backbone
from hidrop.backbones.model_inputs import Grid, Vision
from hidrop.backbones.processing import image_processor_class
from hidrop.checkpoint_files import read_object
from hidrop.geometry import Geometry
from hidrop.pretrained import pretrained
from hidrop.prompts import CHAT_TEMPLATE, PLACEHOLDER

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Tower:
    """Sizes of a CLIP tower; `patch` in pixels."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    patch: int


class Llava(Backbone):
    """transformers' LlavaForConditionalGeneration."""

    model_type: ClassVar[str] = "llava"
    title: ClassVar[str] = "LLaVA"
    config_class: ClassVar[str] = "LlavaConfig"
    model_class: ClassVar[str] = "LlavaForConditionalGeneration"
    processor_class: ClassVar[str] = "LlavaProcessor"
    image_processor_class: ClassVar[str] = "CLIPImageProcessorPil"
    image_processor_folder: ClassVar[str] = "clip"
    decoders: ClassVar[tuple[str, ...]] = ("llama",)
    towers: ClassVar[tuple[str, ...]] = ("clip_vision_model",)

    decoder_at: ClassVar[str] = "model.language_model"
    head_at: ClassVar[str] = "lm_head"
    tower_at: ClassVar[str] = "model.vision_tower"
    projector_at: ClassVar[str] = "model.multi_modal_projector"

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")
    llava_conversation: ClassVar[bool] = True
    sees_whole: ClassVar[bool] = False
    class_token: ClassVar[bool] = True
    interpolates: ClassVar[bool] = True
    vision_settings: ClassVar[tuple[str, ...]] = ("vision_feature_layer", "vision_feature_select_strategy")

    @classmethod
    def geometry_of(cls, config: Any) -> Geometry:
        return Geometry.of_decoder(config.text_config, cls.square_tokens(config))

    @staticmethod
    def square_tokens(config: Any) -> int:
        """Visual tokens of one square of the tower's size; strategy "full" keeps the class token among them."""
        side = config.vision_config.image_size // config.vision_config.patch_size
        return side * side + (0 if config.vision_feature_select_strategy == "default" else 1)

    @classmethod
    def image_tokens_of(cls, config: Any, height: int, width: int, image_processor: Any) -> int:
        return cls.square_tokens(config)

    @classmethod
    def processor_settings(cls, config: Any) -> dict[str, Any]:
        """What older checkpoints leave out of the processor's file."""
        return {
            "patch_size": config.vision_config.patch_size,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "num_additional_image_tokens": 1,
        }

    @classmethod
    def processor_of(cls, config: Any, tokenizer: Any, image_processor: Any, **settings: Any) -> Any:
        import transformers

        return getattr(transformers, cls.processor_class)(
            image_processor=image_processor,
            tokenizer=tokenizer,
            # Vicuna's tokenizer brings no template, or one that knows no images.
            chat_template=tokenizer.chat_template or CHAT_TEMPLATE,
            image_token=tokenizer.convert_ids_to_tokens(config.image_token_id),
            **{**cls.processor_settings(config), **settings},
        )

    @classmethod
    def read_parts(cls, path: Path, config: Any) -> tuple[Any, Any, Any]:
        """By transformers' AutoProcessor where there is a processor's file, so that all of its fields count."""
        from transformers import AutoProcessor, AutoTokenizer

        file = path / "processor_config.json"
        if not file.is_file():
            tokenizer = pretrained(AutoTokenizer, path)
            image_processor = pretrained(image_processor_class(cls), path)
            return tokenizer, image_processor, cls.processor_of(config, tokenizer, image_processor)
        processor = pretrained(AutoProcessor, path, backend="pil")
        stated = read_object(file)
        for name, value in cls.processor_settings(config).items():
            if stated.get(name) is None:
                setattr(processor, name, value)
        return processor.tokenizer, processor.image_processor, processor

    @classmethod
    def prompt_placeholder(cls, tokenizer: Any, processor: Any) -> str:
        return PLACEHOLDER

    @classmethod
    def placeholder_of(cls, tokenizer: Any, processor: Any) -> str:
        return PLACEHOLDER

    @staticmethod
    def config_for(geometry: Geometry, tower: Tower) -> Any:
        """A config of transformers with these sizes, for a model that is yet to be made.

        Raises ValueError for anyres, and for visual tokens that are not a square of patches.
        """
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

        side = isqrt(geometry.visual_tokens)
        if side**2 != geometry.visual_tokens or geometry.dynamic:
            raise ValueError(f"{geometry.visual_tokens} visual tokens are not a square of patches")
        return LlavaConfig(
            text_config=LlamaConfig(**geometry.text_config()),
            vision_config=CLIPVisionConfig(
                hidden_size=tower.hidden,
                intermediate_size=tower.intermediate,
                num_hidden_layers=tower.layers,
                num_attention_heads=tower.heads,
                image_size=side * tower.patch,
                patch_size=tower.patch,
            ),
            image_token_index=geometry.vocab - 1,
            image_seq_length=geometry.visual_tokens,
        )

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        vision = self.model.config.vision_config
        return vision.num_channels, vision.image_size, vision.image_size

    def grids(self, vision: Vision) -> tuple[tuple[Grid, ...], ...]:
        """One square; strategy "full" puts the class token before it."""
        height, width = (side // self.patch_size for side in vision.pixel_values.shape[-2:])
        square: tuple[Grid, ...] = ((1, height, width),)
        if vision.settings["vision_feature_select_strategy"] != "default":
            square = ((1, 1, 1), *square)
        return (square,) * len(vision.pixel_values)

    def features(self, vision: Vision) -> list[torch.Tensor]:
        found = self.model.model.get_image_features(
            **vision.inputs, **vision.settings, return_dict=True, **self._interpolating(vision)
        )
        return list(found.pooler_output)

    def _interpolating(self, vision: Vision) -> dict[str, bool]:
        """What the tower has to be told about images of another size than its own."""
        side = self.model.config.vision_config.image_size
        other = vision.interpolated and vision.pixel_values.shape[-2:] != (side, side)
        return {"interpolate_pos_encoding": True} if other else {}

    def tower_states(self, vision: Vision) -> tuple[Any, torch.Tensor, torch.Tensor]:
        tower, layer = self.tower, vision.settings["vision_feature_layer"]
        if not isinstance(layer, int) or not hasattr(tower.embeddings, "class_embedding"):
            raise ValueError("this method needs a CLIP tower, with a class token, and features of one layer")
        settings = {"output_hidden_states": True, "return_dict": True, **self._interpolating(vision)}
        states = tower(vision.pixel_values, **settings).hidden_states
        place = layer % len(states)
        if place == 0:
            raise ValueError("this method needs features that a layer of the tower has made")
        return tower.encoder.layers[place - 1], states[place - 1], states[place]

    def layer_after_features(self, vision: Vision) -> Any | None:
        layers = self.tower.encoder.layers
        place = vision.settings["vision_feature_layer"] % (len(layers) + 1)
        return layers[place] if place < len(layers) else None
