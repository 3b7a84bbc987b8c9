"""Idefics3, and the first SmolVLM, whose files have its model type: as SmolVLM with other classes of transformers."""

from __future__ import annotations

from typing import ClassVar

from hidrop.backbones.smolvlm import SmolVLM


class Idefics3(SmolVLM):
    """transformers' Idefics3ForConditionalGeneration."""

    model_type: ClassVar[str] = "idefics3"
    title: ClassVar[str] = "Idefics3"
    config_class: ClassVar[str] = "Idefics3Config"
    model_class: ClassVar[str] = "Idefics3ForConditionalGeneration"
    processor_class: ClassVar[str] = "Idefics3Processor"
    image_processor_class: ClassVar[str] = "Idefics3ImageProcessorPil"
    image_processor_folder: ClassVar[str] = "idefics3"
    image_processor_aliases: ClassVar[tuple[str, ...]] = ()
    towers: ClassVar[tuple[str, ...]] = ("idefics3_vision", "idefics3", "siglip_vision_model")
