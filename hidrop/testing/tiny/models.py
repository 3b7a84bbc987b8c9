"""Tiny random models and processors of the multimodal families, by model type. LLaVA's are in llava.py."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch

from hidrop.testing.tiny.family import JITTER, SPREAD, Family
from hidrop.testing.tiny.gemma3 import gemma3
from hidrop.testing.tiny.qwen import qwen2_5_vl, qwen2_vl, qwen3_vl
from hidrop.testing.tiny.tiles import idefics3, internvl, llava_onevision, smolvlm

FAMILIES: dict[str, Callable[[], Family]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "llava_onevision": llava_onevision,
    "internvl": internvl,
    "smolvlm": smolvlm,
    "idefics3": idefics3,
    "gemma3": gemma3,
}


def make_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random float32 model in eval mode, the same for a seed.

    `changes` replace fields of the config; a dict replaces fields of a part: text_config={"num_hidden_layers": 2}.
    """
    import transformers

    made = FAMILIES[family]()
    torch.manual_seed(seed)
    kind = getattr(transformers, made.model_class)
    model = kind(kind.config_class(**changed(made.config, changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, SPREAD)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=JITTER)
    model.generation_config.pad_token_id = made.token_id(made.pad)
    model.generation_config.eos_token_id = None
    return model.eval()


def changed(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with some fields replaced, down into dicts."""
    both = {name: old for name, old in fields.items() if isinstance(old, dict) and isinstance(changes.get(name), dict)}
    return {**fields, **changes, **{name: changed(old, changes[name]) for name, old in both.items()}}


# ---- processors ------------------------------------------------------------------------------------------------------


def images_only(processor_class: str) -> Any:
    """A processor class of transformers without the parts that need torchvision: a new one, which a test may change."""
    from hidrop.backbones import processing

    # The two share all that concerns images, and SmolVLM's own refuses to start without num2words.
    base = "Idefics3Processor" if processor_class == "SmolVLMProcessor" else processor_class
    return type(processor_class, (processing.images_only(base, processor_class),), {})


def image_processor_class(family: Family) -> Any:
    """The class that works on PIL images.

    Without torchvision transformers hides some of these classes, although none of them uses it.
    """
    folder, name = family.image_processor
    return getattr(importlib.import_module(f"transformers.models.{folder}.image_processing_pil_{folder}"), name)


def make_processor(family: str) -> Any:
    """The family's processor for images, with the tokenizer that belongs to `make_model`."""
    made = FAMILIES[family]()
    tokenizer = made.tokenizer(made)
    image_processor = image_processor_class(made)(**made.images)
    kind = images_only(made.processor_class)
    return kind(image_processor=image_processor, tokenizer=tokenizer, chat_template=made.template, **made.processor)
