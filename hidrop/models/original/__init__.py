"""LLaVA's original layout: one LLaMA config with `mm_*` keys, tensors under names of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is in LLaVA's original layout; its early releases called themselves 'llava', too."""
    return "mm_vision_tower" in config or str(config.get("model_type")).startswith("llava_llama")
