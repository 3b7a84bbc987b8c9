"""Tokenizers of the tiny checkpoints: bytes without merges, and the special tokens of a family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hidrop.testing.tiny.family import Family


def byte_symbols() -> dict[str, int]:
    """The 256 printable symbols of bytes in byte-level BPE, with their ids."""
    from tokenizers.pre_tokenizers import ByteLevel

    return {symbol: index for index, symbol in enumerate(sorted(ByteLevel.alphabet()))}


def qwen_tokenizer(family: Family) -> Any:
    """Qwen2's own kind, which LLaVA-OneVision and InternVL use too: bytes without merges, then the special tokens."""
    from transformers import Qwen2Tokenizer

    vocab = {**byte_symbols(), **{token: family.token_id(token) for token in family.tokens}}
    return with_tokens(Qwen2Tokenizer(vocab=vocab, merges=[], **named_tokens(family)), family)


def byte_tokenizer(family: Family) -> Any:
    """Bytes without merges and the special tokens; the template writes `bos`, not the tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {**byte_symbols(), **{token: family.token_id(token) for token in family.tokens}}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return with_tokens(PreTrainedTokenizerFast(tokenizer_object=made, **named_tokens(family)), family)


def gemma_tokenizer(family: Family) -> Any:
    """Gemma's own kind: spaces are "\u2581", and all else falls back to bytes. `bos` is in front of every text."""
    from transformers import GemmaTokenizer

    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocab |= {token: family.token_id(token) for token in family.tokens}
    vocab["\u2581"] = len(vocab)
    names = {**named_tokens(family), "unk_token": "<unk>"}
    return with_tokens(GemmaTokenizer(vocab=vocab, merges=[], add_bos_token=True, **names), family)


def named_tokens(family: Family) -> dict[str, Any]:
    """The arguments of a tokenizer that name special tokens."""
    named = {"bos_token": family.bos, "eos_token": family.eos, "pad_token": family.pad}
    return {**named, "unk_token": None, "extra_special_tokens": family.named}


def with_tokens(tokenizer: Any, family: Family) -> Any:
    """The tokenizer, which already has the special tokens in its vocabulary, never splitting one of them."""
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in family.tokens])
    return tokenizer
