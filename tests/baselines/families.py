"""Batches of questions about pictures of any size, for the tiny models of every family with a processor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from hidrop.backbones import backbone_of
from tests.conftest import pad
from tests.test_tiny_checkpoints import pictures
from tests.tiny_checkpoints import make_processor

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl", "smolvlm", "gemma3"]
QWEN = FAMILIES[:3]
QUESTIONS = ["What differs?", "Is there a cat?", "Why?"]


def asked(processor: Any, images: Sequence[Image.Image], question: str) -> dict[str, torch.Tensor]:
    """The inputs of one question about some pictures, or about none."""
    parts = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": question}]
    settings = dict(add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    return dict(processor.apply_chat_template([{"role": "user", "content": parts}], **settings))


def batch(
    model: Any, rows: Sequence[Sequence[Image.Image]], side: str = "left", first: int = 0
) -> dict[str, torch.Tensor]:
    """A padded batch of one question a row, each about its own pictures. `first`: number of the first row's question."""
    backbone, processor = backbone_of(model), make_processor(model.config.model_type)
    made = [asked(processor, images, QUESTIONS[number % 3]) for number, images in enumerate(rows, first)]
    images = [{name: row[name] for name in backbone.image_inputs if name in row} for row in made]
    return {**pad([row["input_ids"] for row in made], side), **backbone.joined([one for one in images if one])}


def drawn(rows: Sequence[Sequence[tuple[int, int]]]) -> list[list[Image.Image]]:
    """Pictures of these heights and widths for each row, all different."""
    flat = iter(pictures(*[size for row in rows for size in row]))
    return [[next(flat) for _ in row] for row in rows]
