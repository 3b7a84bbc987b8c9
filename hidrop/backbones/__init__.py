"""Model families, one file each: see base.py for what a family has to answer.

A new family is a file with a subclass of Backbone, a line in BACKBONES and a row in the tests' table.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from hidrop.backbones.model_inputs import Places, Vision
from hidrop.errors import UserError
from hidrop.geometry import Counts, Geometry

if TYPE_CHECKING:
    from hidrop.backbones.base import Backbone

# By the model_type of a config. Imported on demand.
BACKBONES: dict[str, str] = {
    "llava": "hidrop.backbones.llava:Llava",
    "llava_next": "hidrop.backbones.llava_next:LlavaNext",
    "llava_onevision": "hidrop.backbones.onevision:OneVision",
    "internvl": "hidrop.backbones.internvl:InternVL",
    "smolvlm": "hidrop.backbones.smolvlm:SmolVLM",
    "idefics3": "hidrop.backbones.idefics3:Idefics3",
    "qwen2_vl": "hidrop.backbones.qwen2_vl:Qwen2VL",
    "qwen2_5_vl": "hidrop.backbones.qwen2_vl:Qwen2_5VL",
    "qwen3_vl": "hidrop.backbones.qwen3_vl:Qwen3VL",
    "gemma3": "hidrop.backbones.gemma3:Gemma3",
}
# Families that were looked at and are not supported, each with the reason.
LINEAR = "most of its layers are linear attention, in which a token that is taken out stays in the state"
EXPERTS = "its layers choose among experts, and kept tokens were never compared with transformers there"
REFUSED: dict[str, str] = {
    "qwen3_next": LINEAR,
    "qwen3_5": LINEAR,
    "qwen3_5_moe": LINEAR,
    "qwen3_vl_moe": EXPERTS,
    "glm4v_moe": EXPERTS,
    "llama4": EXPERTS,
    "kimi_vl": EXPERTS,
    "deepseek_vl_v2": EXPERTS,
    "mllama": "its images are not tokens of the sequence: layers of cross attention read them",
    "qwen2_5_omni": "it also hears and speaks, and its positions mix sound with frames",
    "qwen3_omni_moe": "it also hears and speaks, and its positions mix sound with frames",
    "gemma3_text": "it sees no images; Gemma 3 with images has model_type 'gemma3'",
    "gemma3n": "its layers share keys and values with earlier ones, so tokens cannot differ from layer to layer",
    "internvl_chat": "it runs code of its own; take the checkpoint in transformers' layout, whose name ends in '-hf'",
    "instructblip": "its images have a fixed number of query tokens, which are no places of the image",
    "blip-2": "its images have a fixed number of query tokens, which are no places of the image",
}


# What was stated about loaded models. Not an attribute of theirs: those are saved and copied with them.
_REFERENCES: WeakKeyDictionary[Any, tuple[int | None, Counts]] = WeakKeyDictionary()


def backbone_class(model_type: str) -> type[Backbone] | None:
    """The family with this model type; None for one that is not supported."""
    if model_type not in BACKBONES:
        return None
    module, name = BACKBONES[model_type].split(":")
    return getattr(importlib.import_module(module), name)


def supported() -> str:
    """What a user can bring, in words."""
    kinds = [kind for name in BACKBONES if (kind := backbone_class(name))]
    listed = "; ".join(
        f"{kind.title} (model_type '{kind.model_type}', decoder {' or '.join(kind.decoders)}, tower "
        f"{' or '.join(kind.towers)})"
        for kind in kinds
    )
    return f"{listed}, in transformers' layout; and LLaVA-1.5 in its original layout (model_type 'llava_llama...')"


def family_of(config: Mapping[str, Any], place: str) -> type[Backbone]:
    """The family that a config in transformers' layout (a config.json) belongs to.

    Raises UserError, naming `place` and what is supported, for any other architecture, decoder or tower, and for
    fields without a sensible value.
    """
    from hidrop.backbones.config_fields import NamedFields, check_fields

    kind = backbone_class(str(config.get("model_type")))
    if kind is None:
        check_fields(config, place, NamedFields)
        found = config.get("model_type") or "/".join(config.get("architectures") or ["unknown"])
        reason = f": {REFUSED[found]}" if found in REFUSED else ""
        raise UserError(f"{place}: architecture '{found}' is not supported{reason}. Supported: {supported()}")
    check_fields(config, place, kind.fields)
    kind.check_config(config, place, supported())
    return kind


def backbone_of(model: Any) -> Backbone:
    """The backbone of a loaded model. Raises TypeError for a model that cannot be reduced, with the reason."""
    kind = backbone_class(str(getattr(getattr(model, "config", None), "model_type", None)))
    if kind is None or kind.model_class not in {base.__name__ for base in type(model).__mro__}:
        way = ""
        if hasattr(model, "get_base_model"):  # PEFT's wrapper
            way = " Give it the model inside: get_base_model()."
        elif hasattr(model, "model") and hasattr(model, "tokenizer"):  # what `load` returns
            way = " Give it the model itself: its attribute `model`."
        raise TypeError(f"{type(model).__name__} is not a model that hidrop can reduce.{way} It reduces {supported()}")
    return kind(model).counting(*_REFERENCES.get(model, (None, "scaled")))


def count_by(model: Any, reference_tokens: int | None, counts: Counts = "scaled") -> None:
    """State, for every later `backbone_of(model)`, the image that absolute counts of methods are of.

    Raises ValueError like `Geometry.counted`.
    """
    backbone_of(model).counting(reference_tokens, counts)
    _REFERENCES[model] = reference_tokens, counts


def geometry_of(config: Any) -> Geometry:
    """The sizes in a config of transformers. Raises UserError for an architecture that is not supported."""
    return family_of(config.to_dict(), type(config).__name__).geometry_of(config)


def __getattr__(name: str) -> Any:
    """Backbone on demand: its module checks config files, with a library that a command's help must not wait for."""
    if name != "Backbone":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hidrop.backbones.base import Backbone

    return Backbone


__all__ = [
    "BACKBONES",
    "Backbone",
    "Places",
    "Vision",
    "backbone_class",
    "backbone_of",
    "count_by",
    "family_of",
    "geometry_of",
]
