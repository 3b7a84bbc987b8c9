"""Tiny random LLaVA and LLaVA-NeXT, and prompts, pixels and padding for them."""

from __future__ import annotations

from typing import Any

import torch

IMAGE = 99
VOCAB = 100


def make_llava(
    kv_heads: int = 4, layers: int = 6, seed: int = 0, attention: str = "sdpa", scale: float = 0.25, **text: Any
) -> Any:
    """A random float32 LLaVA in eval mode: hidden 32, 4 heads, 16 visual tokens (32 px, patch 8), image token 99.

    Weights are larger than usual so that attention is far from uniform and every mistake shows.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(seed)
    parts = tiny_parts(kv_heads, layers, **text)
    config = LlavaConfig(**parts, image_seq_length=16, attn_implementation=attention)
    return enlarged(LlavaForConditionalGeneration(config), scale)


# Of LLaVA-NeXT on tiles of 32 pixels (height, width): up to four tiles next to the whole image.
PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]


def make_llava_next(layers: int = 6, seed: int = 0) -> Any:
    """A random LLaVA-NeXT of the same sizes: 16 visual tokens a tile."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    torch.manual_seed(seed)
    parts = tiny_parts(kv_heads=2, layers=layers, max_position_embeddings=1024)
    return enlarged(LlavaNextForConditionalGeneration(LlavaNextConfig(**parts, image_grid_pinpoints=PINPOINTS)))


def tiny_parts(kv_heads: int, layers: int, **text: Any) -> dict[str, Any]:
    """What a LLaVA's config has of tower and decoder."""
    from transformers import CLIPVisionConfig, LlamaConfig

    vision = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
        projection_dim=24,
    )
    decoder = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        **{"max_position_embeddings": 512, **text},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return {"vision_config": vision, "text_config": decoder, "image_token_index": IMAGE}


def enlarged(model: Any, scale: float = 0.25) -> Any:
    """The model in eval mode, with weights from torch's generator that leave no attention uniform."""
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, scale)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model


def make_prompt(before: int = 3, after: int = 5, images: int = 1, seed: int = 0, count: int = 16) -> torch.Tensor:
    """Token ids (1, S): `before` words, then for each image its placeholders and `after` words."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def words(n: int) -> list[int]:
        return torch.randint(3, IMAGE, (n,), generator=generator).tolist()

    ids = [1, *words(before - 1)]
    for _ in range(images):
        ids += [IMAGE] * count + words(after)
    if not images:
        ids += words(after)
    return torch.tensor([ids])


def make_pixels(images: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(2000 + seed))


def pad(prompts: list[torch.Tensor], side: str = "left") -> dict[str, torch.Tensor]:
    """Pad prompts (1, S) to one batch: input_ids and attention_mask."""
    longest = max(p.shape[1] for p in prompts)
    ids, masks = [], []
    for p in prompts:
        fill = torch.zeros(1, longest - p.shape[1], dtype=torch.long)
        parts = (fill, p) if side == "left" else (p, fill)
        flags = (fill, torch.ones_like(p)) if side == "left" else (torch.ones_like(p), fill)
        ids.append(torch.cat(parts, 1))
        masks.append(torch.cat(flags, 1))
    return {"input_ids": torch.cat(ids), "attention_mask": torch.cat(masks)}
