"""What differs between model families: which architectures there are, and where their parts sit in a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from hidrop.errors import UserError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Parts:
    """The modules of one model. `decoder` has `layers`, `embed_tokens`, `norm` and `rotary_emb`."""

    vision_tower: nn.Module
    projector: nn.Module
    decoder: nn.Module
    head: nn.Module


@dataclass(frozen=True)
class Family:
    """An architecture in transformers' layout: its model types, its classes, and its parts as attribute paths.

    `config`, `model` and `processor` are names in transformers. `anyres`: an image has as many tokens as its shape
    gives (anyres.py).
    """

    model_type: str
    config: str
    model: str
    processor: str
    image_processor: str
    anyres: bool
    decoders: tuple[str, ...]
    towers: tuple[str, ...]
    vision_tower: str
    projector: str
    decoder: str
    head: str

    def parts(self, model: nn.Module) -> Parts:
        """Tower, projector, decoder and head of a model of this family."""
        return Parts(
            *(attrgetter(where)(model) for where in (self.vision_tower, self.projector, self.decoder, self.head))
        )


LLAVA = Family(
    model_type="llava",
    config="LlavaConfig",
    model="LlavaForConditionalGeneration",
    processor="LlavaProcessor",
    image_processor="CLIPImageProcessorPil",
    anyres=False,
    decoders=("llama",),
    towers=("clip_vision_model",),
    vision_tower="model.vision_tower",
    projector="model.multi_modal_projector",
    decoder="model.language_model",
    head="lm_head",
)
LLAVA_NEXT = replace(
    LLAVA,
    model_type="llava_next",
    config="LlavaNextConfig",
    model="LlavaNextForConditionalGeneration",
    processor="LlavaNextProcessor",
    image_processor="LlavaNextImageProcessorPil",
    anyres=True,
)
# Another family is one more row here, plus what its images need (the Qwen-VL models keep tower and projector in one
# `model.visual`).
FAMILIES = {family.model_type: family for family in (LLAVA, LLAVA_NEXT)}

SUPPORTED = (
    "LLaVA and LLaVA-NeXT (model_type 'llava' or 'llava_next' with a 'llama' decoder and a 'clip_vision_model' tower) "
    "in transformers' layout, and LLaVA's original layout (model_type 'llava_llama', 'llava_llama_pdrop', "
    "'llava_llama_exit_topk', ...)"
)


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is in LLaVA's original layout; its early releases called themselves 'llava', too."""
    return "mm_vision_tower" in config or str(config.get("model_type")).startswith("llava_llama")


def parts(model: Any) -> Parts:
    """Tower, projector, decoder and head of a loaded model. Raises UserError for an unsupported architecture."""
    return family_of(model.config.to_dict(), type(model).__name__).parts(model)


def family_of(config: Mapping[str, Any], place: str) -> Family:
    """The family that a config in transformers' layout (a config.json) belongs to.

    Raises UserError, naming `place` and what is supported, for any other architecture.
    """
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        found = config.get("model_type") or "/".join(config.get("architectures") or ["unknown"])
        raise UserError(f"{place}: architecture '{found}' is not supported. Supported: {SUPPORTED}")
    decoder = (config.get("text_config") or {}).get("model_type", "llama")
    tower = (config.get("vision_config") or {}).get("model_type", "clip_vision_model")
    for part, found, known in (("decoder", decoder, family.decoders), ("tower", tower, family.towers)):
        if found not in known:
            raise UserError(f"{place}: LLaVA with a '{found}' {part} is not supported. Supported: {SUPPORTED}")
    return family
