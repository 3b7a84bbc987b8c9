"""Beams, or several answers to one prompt: generate() repeats the rows of a batch, and their images have to follow.

transformers repeats every tensor along its first axis. For images that is right only where each row has one image and
each image one row of pixels: Qwen's patches and the tiles of an image would be mixed. transformers' own models
escape this where they encode the images before (`mm_encoder_outputs`), which a reduced model does not do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from hidrop.backbones import Backbone
from hidrop.backbones.model_inputs import IMAGE, VIDEO
from hidrop.runtime.layout import media_in_rows


def repeat_rows(
    backbone: Backbone,
    own: Callable[..., tuple[torch.Tensor, dict[str, Any]]],
    expand_size: int = 1,
    is_encoder_decoder: bool = False,
    input_ids: torch.Tensor | None = None,
    **inputs: Any,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """In the place of a model's `_expand_inputs_for_generation` (`own`): each row `expand_size` times, with its images.

    Raises ValueError for a row whose placeholders end within an image or a video.
    """
    names = [name for name in backbone.image_inputs if expand_size > 1 and inputs.get(name) is not None]
    images = {name: inputs.pop(name) for name in names}
    rows, repeated = own(expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **inputs)
    if input_ids is not None:
        images = repeat_images(backbone, images, input_ids, expand_size)
    return rows, {**repeated, **images}


def repeat_images(
    backbone: Backbone, inputs: dict[str, torch.Tensor], ids_BS: torch.Tensor, times: int
) -> dict[str, torch.Tensor]:
    """The inputs of the images and videos of a batch, each row's `times` times: those of rows 0, 0, 1, 1, ..."""
    vision = backbone.vision(inputs)
    if vision is None:
        return inputs
    images, _ = backbone.media(vision.inputs)
    sizes = vision.tokens
    kind_BS, numbers = backbone.kinds(ids_BS), list[int]()
    for kind, first, of_kind in ((IMAGE, 0, sizes[:images]), (VIDEO, images, sizes[images:])):
        for count in media_in_rows((kind_BS == kind).sum(1).tolist(), of_kind):
            numbers += [*range(first, first + count)] * times
            first += count
    return backbone.chosen(vision.inputs, numbers)
