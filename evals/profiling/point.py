"""What is timed at once: the shape of a prompt and of a batch, and how often."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One shape of request. `text_tokens` are around the images, half of them before; `new_tokens` are decoded.

    The first `warmup` of the rounds do not count, and `repeats` do. `seed` draws the prompts.
    """

    batch: int = 1
    text_tokens: int = 60
    images: int = 1
    new_tokens: int = 8
    repeats: int = 10
    warmup: int = 2
    seed: int = 0
