"""Gemma 3: images of 256 tokens that see each other both ways, RoPE by kind of layer, prompts within one window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar

from hidrop.backbones.asking import Asking
from hidrop.backbones.base import Backbone
from hidrop.backbones.config_fields import (
    ConfigFields,
    DecoderFields,
    LayerRopeFields,
    Layers,
    Positive,
    TokenId,
    Tokens,
)
from hidrop.backbones.model_inputs import Grid, Rope, Vision
from hidrop.geometry import Geometry

if TYPE_CHECKING:
    import torch

    from hidrop.backbones.attended import Attended

KINDS = ("full_attention", "sliding_attention")


class GemmaDecoderFields(DecoderFields):
    """The decoder's config, whose position embeddings differ between kinds of layers."""

    rope_parameters: LayerRopeFields | None = None  # type: ignore[assignment]
    rope_local_base_freq: Positive | None = None
    sliding_window_pattern: Layers | None = None
    query_pre_attn_scalar: Positive | None = None
    # No release has these, and the runtime leaves them out.
    attn_logit_softcapping: None = None
    final_logit_softcapping: None = None


class GemmaFields(ConfigFields):
    """A config.json."""

    text_config: GemmaDecoderFields | None = None
    mm_tokens_per_image: Tokens = 256
    boi_token_index: TokenId = 0
    eoi_token_index: TokenId = 0


class Gemma3(Backbone):
    """transformers' Gemma3ForConditionalGeneration.

    Most layers see a window of the last tokens only. Within that window they are as all others, and a longer sequence
    is refused: what a window means in a sequence with fewer tokens is not defined.
    """

    model_type: ClassVar[str] = "gemma3"
    title: ClassVar[str] = "Gemma 3"
    config_class: ClassVar[str] = "Gemma3Config"
    model_class: ClassVar[str] = "Gemma3ForConditionalGeneration"
    processor_class: ClassVar[str] = "Gemma3Processor"
    image_processor_class: ClassVar[str] = "Gemma3ImageProcessorPil"
    image_processor_folder: ClassVar[str] = "gemma3"
    fields: ClassVar[type[ConfigFields]] = GemmaFields
    decoders: ClassVar[tuple[str, ...]] = ("gemma3_text",)
    towers: ClassVar[tuple[str, ...]] = ("siglip_vision_model",)

    decoder_at: ClassVar[str] = "model.language_model"
    head_at: ClassVar[str] = "lm_head"
    tower_at: ClassVar[str] = "model.vision_tower"
    projector_at: ClassVar[str] = "model.multi_modal_projector"

    asking: ClassVar[Asking | None] = Asking(
        "gemma3",
        longest=128,
        system="You are a helpful assistant.",
        removed=("<image>",),
        jpeg=85,
        together=True,
        ends=False,
        stops=True,
        ignored=("\n\n",),
    )
    derived_inputs: ClassVar[tuple[str, ...]] = ("token_type_ids",)
    both_ways: ClassVar[bool] = True
    shows_videos: ClassVar[bool] = True
    frames_are_images: ClassVar[bool] = True

    @classmethod
    def geometry_of(cls, config: Any) -> Geometry:
        text = config.text_config
        sizes = Geometry.of_decoder(text, config.mm_tokens_per_image)
        return replace(sizes, max_positions=min(sizes.max_positions, text.sliding_window or sizes.max_positions))

    @classmethod
    def size_problems(cls, config: Any) -> Iterator[str]:
        yield from super().size_problems(config)
        vision, tokens = config.vision_config, config.mm_tokens_per_image
        side, patches = isqrt(tokens), vision.image_size // vision.patch_size
        if side * side != tokens or patches % side:
            yield f"mm_tokens_per_image: {tokens} is no square whose side divides the {patches} patches of the tower's"
        kinds, layers = config.text_config.layer_types, config.text_config.num_hidden_layers
        if len(kinds) != layers:
            yield f"text_config.layer_types: {len(kinds)} for {layers} layers"
        if others := sorted({*kinds} - {*KINDS}):
            yield f"text_config.layer_types: {', '.join(others)} is not supported, only {' and '.join(KINDS)}"

    @classmethod
    def processor_settings(cls, config: Any) -> dict[str, Any]:
        return {"image_seq_length": config.mm_tokens_per_image}

    @classmethod
    def image_tokens_of(cls, config: Any, height: int, width: int, image_processor: Any) -> int:
        """Every image has as many, whatever its size."""
        return config.mm_tokens_per_image

    @classmethod
    def processor_problems(cls, config: Any, image_processor: Any) -> Iterator[str]:
        yield from super().processor_problems(config, image_processor)
        if getattr(image_processor, "do_pan_and_scan", None):
            yield "the image processor's do_pan_and_scan adds crops to an image, which is not supported"

    @classmethod
    def placeholder_of(cls, tokenizer: Any, processor: Any) -> str:
        """The processor's own `image_token` is what begins an image."""
        return tokenizer.image_token

    @property
    def window(self) -> int | None:
        text = self.model.config.text_config
        return text.sliding_window if "sliding_attention" in text.layer_types else None

    def unsupported(self) -> str | None:
        kinds = set(self.decoder.config.layer_types)
        if not kinds <= {*KINDS} or getattr(self.decoder.config, "use_bidirectional_attention", False):
            return f"decoder '{self.decoder.config.model_type}' is not supported with layers of {sorted(kinds)}"
        return None

    def grids(self, vision: Vision) -> tuple[tuple[Grid, ...], ...]:
        side = isqrt(self.model.config.mm_tokens_per_image)
        return (((1, side, side),),) * len(vision.pixel_values)

    def features(self, vision: Vision) -> list[torch.Tensor]:
        return list(self.model.model.get_image_features(vision.pixel_values, return_dict=True).pooler_output)

    def attended(self, vision: Vision) -> list[Attended]:
        from hidrop.backbones.attended import squares

        side = isqrt(self.model.config.mm_tokens_per_image)
        return squares(self.tower.encoder.layers[-1].self_attn, lambda: self.features(vision), side)

    @property
    def pixel_shape(self) -> tuple[int, ...]:
        vision = self.model.config.vision_config
        return vision.num_channels, vision.image_size, vision.image_size

    def rope(self, hidden: torch.Tensor, position_PBN: torch.Tensor) -> Rope:
        """The kinds of layers side by side: (B, N, kinds x head size)."""
        import torch

        both = [self.decoder.rotary_emb(hidden, position_PBN[0], kind) for kind in KINDS]
        cos, sin = (torch.cat(parts, -1) for parts in zip(*both, strict=True))
        return cos, sin

    def layer_rope(self, rope: Rope, layer: int) -> Rope:
        number = KINDS.index(self.decoder.config.layer_types[layer - 1])
        cos, sin = (part.chunk(len(KINDS), -1)[number] for part in rope)
        return cos, sin

    def medium(self, inputs: Mapping[str, torch.Tensor], number: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": inputs["pixel_values"][number : number + 1]}
