"""How the vocabulary of a language model grows by the image's placeholder, when the model becomes a LLaVA."""

from __future__ import annotations

from typing import Any

from hidrop.prompts import PLACEHOLDER

# Aligned matrices are fast. llava-hf's conversions use this multiple, too (32000 -> 32064).
MULTIPLE = 64


def add_placeholder(tokenizer: Any) -> int:
    """Give a tokenizer the placeholder, and a padding token if it has none. Returns the placeholder's id."""
    tokenizer.add_tokens([PLACEHOLDER], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer.convert_tokens_to_ids(PLACEHOLDER)


def grown(rows: int) -> int:
    """The number of rows, at least `rows`, that the vocabulary of the LLaVA gets."""
    return -(-rows // MULTIPLE) * MULTIPLE
