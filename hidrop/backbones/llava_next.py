"""How many visual tokens a LLaVA-NeXT image has: the whole image, then its tiles without the padding, row by row."""

from __future__ import annotations

from typing import Any


def image_tokens(config: Any, height: int, width: int) -> int:
    """Visual tokens of an image of `height` x `width` pixels, line ends (`image_newline`) included.

    The image is put into the best of `config.image_grid_pinpoints`, cut into tiles of the tower's size, and the rows or
    columns of patches that are nothing but padding are taken out again.
    """
    from transformers.image_processing_utils import select_best_resolution

    tower = config.vision_config
    side = tower.image_size // tower.patch_size
    best_height, best_width = select_best_resolution((height, width), config.image_grid_pinpoints)
    rows, columns = side * (best_height // tower.image_size), side * (best_width // tower.image_size)
    if width / height > columns / rows:
        rows -= 2 * ((rows - _scaled(height, columns / width)) // 2)
    else:
        columns -= 2 * ((columns - _scaled(width, rows / height)) // 2)
    return side * side + rows * (columns + 1)


def largest_image(config: Any) -> tuple[int, int]:
    """Height and width of the pinpoint with the most tiles."""
    height, width = max(config.image_grid_pinpoints, key=lambda pinpoint: pinpoint[0] * pinpoint[1])
    return height, width


def _scaled(length: int, factor: float) -> int:
    return int(round(length * factor, 7))  # 20.999999999999996 is 21
