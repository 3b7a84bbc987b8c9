"""Real handwritten digits (UCI, as shipped inside scikit-learn) and printed words, as small alpha masks.

Glyphs are split by a fixed rule: every fourth glyph of a class belongs to the test scenes. Glyphs with the same bytes
are never on both sides, so no test glyph is seen in training.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Split = Literal["train", "test"]
Mask = NDArray[np.float32]

# A fixed list of words with three to five letters and distinct shapes.
WORDS = (
    "bank", "bus", "cafe", "cash", "cold", "exit", "fire", "fish", "food", "gas", "gold", "hot", "hotel", "ice",
    "kiosk", "menu", "milk", "music", "news", "open", "park", "pizza", "push", "sale", "shoes", "shop", "soup", "stop",
    "taxi", "tea", "toys", "zoo",
)  # fmt: skip


@lru_cache(maxsize=1)
def _digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images / 16.0).astype(np.float32), bunch.target.astype(np.int64)


@lru_cache(maxsize=2)
def glyph_ids(split: Split) -> tuple[tuple[int, ...], ...]:
    """For each digit 0-9, the indices of its glyphs in `split`."""
    images, labels = _digits()
    seen: dict[bytes, Split] = {}
    ids: dict[Split, list[list[int]]] = {"train": [[] for _ in range(10)], "test": [[] for _ in range(10)]}
    count = [0] * 10
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        side = seen.setdefault(image.tobytes(), "test" if count[label] % 4 == 3 else "train")
        ids[side][label].append(index)
        count[label] += 1
    return tuple(tuple(group) for group in ids[split])


@lru_cache(maxsize=65536)
def digit_mask(index: int, width: int, height: int, tilt: int) -> Mask:
    """Glyph `index` as an alpha mask (height, width) in [0, 1], rotated by `tilt` degrees."""
    images, _ = _digits()
    image = Image.fromarray((images[index] * 255).astype(np.uint8))
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    if tilt:
        image = image.rotate(tilt, resample=Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32) / 255.0


@lru_cache(maxsize=1024)
def word_mask(word: str, size: int) -> Mask:
    """`word` printed in capitals with Pillow's own typeface at `size` px, cropped to its ink."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(word.upper())
    canvas = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), word.upper(), fill=255, font=font)
    return np.asarray(canvas, dtype=np.float32) / 255.0
