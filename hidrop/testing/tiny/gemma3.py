"""Tiny Gemma 3."""

from __future__ import annotations

from typing import Any

from hidrop.testing.tiny.family import HALF, TEXT, TOWER, Family
from hidrop.testing.tiny.family_tokenizers import gemma_tokenizer


def gemma3() -> Family:
    """16 tokens an image. Layers 3 and 6 see everything, the others the last 512 places."""
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    tokens += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    text: dict[str, Any] = dict(TEXT, head_dim=16, query_pre_attn_scalar=16, sliding_window=512)
    text |= dict(layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2)
    text |= dict(pad_token_id=256, eos_token_id=257, bos_token_id=258)
    return Family(
        model_class="Gemma3ForConditionalGeneration",
        processor_class="Gemma3Processor",
        image_processor=("gemma3", "Gemma3ImageProcessorPil"),
        config=dict(
            boi_token_index=263,
            eoi_token_index=264,
            image_token_index=265,
            mm_tokens_per_image=16,
            tie_word_embeddings=True,
            vision_config=dict(TOWER, image_size=32, patch_size=4, vision_use_head=False),
            text_config=text,
        ),
        tokens=tokens,
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        template=GEMMA_TURNS,
        images=dict(size={"height": 32, "width": 32}, **HALF),
        named={"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        processor=dict(image_seq_length=16),
        generation=dict(do_sample=True, top_k=64, top_p=0.95, eos_token_id=[257, 262]),
        tokenizer=gemma_tokenizer,
    )


GEMMA_TURNS = """\
{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else none %}\
{% for message in messages %}\
{% if message.role != 'system' %}<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}
{% if loop.index0 == 1 and system %}{{ system if system is string else system[0].text }}

{% endif %}{% if message.content is string %}{{ message.content | trim }}{% else %}{% for part in message.content -%}
{% if part.type == 'image' %}<start_of_image>{% elif part.type == 'text' %}{{ part.text | trim }}{% endif %}\
{% endfor %}{% endif %}<end_of_turn>
{% endif %}{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
