"""What transformers calls a KV cache, as an argument and as a field of what a model returns.

It is `past_key_values` in transformers 5.17, and `cache` in a later 5.x, where the old name warns. Both are supported,
so the name is read from transformers itself.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any


@cache
def cache_name() -> str:
    """`past_key_values` or `cache`."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    return "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


def cache_of(output: Any) -> Any:
    """The KV cache that a model returned, None if there is none."""
    return getattr(output, cache_name())
