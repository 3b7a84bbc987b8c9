"""Tiny Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hidrop.testing.tiny.family import CLIP, HALF, HIDDEN, TEXT, Family, video

QWEN_TOKENS = [
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
]
QWEN_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
QWEN_TURNS = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content -%}
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>\
{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def qwen(
    version: str,
    vision: Mapping[str, Any],
    text: Mapping[str, Any],
    colours: Mapping[str, Any] = CLIP,
    **changes: Any,
) -> Family:
    """What the three Qwen families share. An image has one token for each 2 x 2 patches, between 4 and 64 tokens."""
    ids = {token: 256 + index for index, token in enumerate(QWEN_TOKENS)}
    unit = (2 * vision["patch_size"]) ** 2  # pixels of a token
    patches = dict(patch_size=vision["patch_size"], temporal_patch_size=2, merge_size=2)
    config = dict(
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
        vision_config=dict(num_heads=2, spatial_merge_size=2, temporal_patch_size=2, **vision),
        text_config={
            **TEXT,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            **text,
        },
    )
    return Family(
        model_class=f"{version}ForConditionalGeneration",
        image_processor=("qwen2_vl", "Qwen2VLImageProcessorPil"),
        config=config,
        tokens=QWEN_TOKENS,
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        images=dict(size={"shortest_edge": 4 * unit, "longest_edge": 64 * unit}, **patches, **colours),
        **{"template": QWEN_SYSTEM + QWEN_TURNS, **changes},
    )


def qwen_video(kind: str, side: int, colours: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """A video of 2 to 16 frames; `side` is that of a patch in pixels."""
    size = {"shortest_edge": 4 * (2 * side) ** 2, "longest_edge": 64 * (2 * side) ** 2}
    frames = dict(size=size, min_frames=2, max_frames=16, patch_size=side, temporal_patch_size=2, merge_size=2)
    return video(kind, **colours, **frames, **settings)


def qwen2_vl() -> Family:
    return qwen(
        "Qwen2VL",
        vision=dict(depth=2, embed_dim=32, hidden_size=HIDDEN, mlp_ratio=2, patch_size=14),
        text=dict(rope_parameters=mrope([2, 3, 3])),
        processor_class="Qwen2VLProcessor",
        video=qwen_video("Qwen2VLVideoProcessor", 14, CLIP, max_video_tokens=128000),
        generation=dict(do_sample=True, temperature=0.01, top_k=1, top_p=0.001),
    )


def qwen2_5_vl() -> Family:
    """Windows of 2 x 2 tokens (56 pixels); the last of three blocks of the tower sees the whole image."""
    tower = dict(depth=3, hidden_size=32, intermediate_size=48, out_hidden_size=HIDDEN, patch_size=14)
    return qwen(
        "Qwen2_5_VL",
        vision=dict(tower, window_size=56, fullatt_block_indexes=[2], tokens_per_second=2),
        text=dict(rope_parameters=mrope([2, 3, 3])),
        processor_class="Qwen2_5_VLProcessor",
        video=qwen_video("Qwen2VLVideoProcessor", 14, CLIP, max_video_tokens=128000),
        generation=dict(do_sample=True, temperature=1e-6, repetition_penalty=1.05),
    )


def qwen3_vl() -> Family:
    """Heads that are larger than hidden size / heads, and three levels of DeepStack out of a tower of five blocks."""
    tower = dict(depth=5, hidden_size=32, intermediate_size=48, out_hidden_size=HIDDEN, patch_size=16)
    rope = mrope([6, 5, 5], theta=5e6, mrope_interleaved=True)
    return qwen(
        "Qwen3VL",
        vision=dict(tower, num_position_embeddings=36, deepstack_visual_indexes=[1, 2, 3]),
        text=dict(head_dim=32, rope_parameters=rope),
        processor_class="Qwen3VLProcessor",
        colours=HALF,
        video=qwen_video("Qwen3VLVideoProcessor", 16, HALF, max_video_tokens=768, do_sample_frames=True, fps=2),
        template=QWEN_TURNS,
        generation=dict(do_sample=True, temperature=0.7, top_k=20, top_p=0.8),
    )


def mrope(section: list[int], theta: float = 1e6, **settings: Any) -> dict[str, Any]:
    """RoPE of three axes; the sections add up to half of a head."""
    return {"rope_type": "default", "rope_theta": theta, "mrope_section": section, **settings}
