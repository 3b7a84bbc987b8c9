"""A tiny random CLIP in the files that transformers writes, for the towers of `tests.conftest.make_llava`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hidrop.testing.tiny.family_tokenizers import byte_symbols
from tests.conftest import VOCAB

SEGMENT, SPACE = 16, 20  # tokens that the text tower reads at once, and the size of the common space


def write_clip(folder: Path, hidden: int = 24, seed: int = 5) -> Path:
    """A whole CLIP whose vision tower has this width; its tokenizer knows bytes and two special tokens."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

    symbols = list(byte_symbols())
    vocab = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    small = dict(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2)
    text = CLIPTextConfig(
        **small, vocab_size=len(vocab), max_position_embeddings=SEGMENT, bos_token_id=len(vocab) - 2, eos_token_id=2
    )
    vision = CLIPVisionConfig(**{**small, "hidden_size": hidden}, image_size=32, patch_size=8)
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=SPACE))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.25) if parameter.ndim > 1 else parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=[]).save_pretrained(folder)
    return folder


def word_tokenizer() -> Any:
    """A tokenizer for the ids of `make_llava`: each is a word of its own, and 0, 1 and 2 are special."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    words = [*named.values(), *(f"w{number}" for number in range(3, VOCAB))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, **named)
