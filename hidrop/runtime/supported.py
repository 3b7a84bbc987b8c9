"""What a reduction can work on: models, and caches that a caller brings."""

from __future__ import annotations

from typing import Any

from transformers import DynamicCache, LlavaForConditionalGeneration, LlavaNextForConditionalGeneration
from transformers.cache_utils import Cache

from hidrop.runtime.cache import RaggedCache


def check_model(model: Any) -> None:
    """Raises TypeError for another architecture than ours."""
    if not isinstance(model, (LlavaForConditionalGeneration, LlavaNextForConditionalGeneration)):
        raise TypeError(f"reduce works on transformers' LLaVA and LLaVA-NeXT, not on {type(model).__name__}")
    text = model.config.text_config
    layer: Any = model.model.language_model.layers[0]
    needed = [getattr(layer, "input_layernorm", None)]
    needed += [getattr(layer.self_attn, name, None) for name in ("q_proj", "k_proj")]
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    if None in needed or hasattr(layer.self_attn, "q_norm") or kinds != {"full_attention"} or window:
        raise TypeError(f"decoder '{text.model_type}' is not supported: it needs LLaMA's layers with full attention")


def check_empty(cache: Cache | None) -> None:
    """Raises ValueError for a cache that a first prefill cannot begin with."""
    if cache is None or isinstance(cache, RaggedCache):
        return
    if type(cache) is not DynamicCache or cache.offloading:
        kind = type(cache).__name__
        raise ValueError(f"past_key_values: {kind} cannot hold layers of different lengths; use the default cache")
    if cache.get_seq_length():
        raise ValueError("past_key_values: this cache was filled without the reducer; start from the whole prompt")
