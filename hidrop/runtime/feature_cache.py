"""Features of images that were seen before, so that the tower works once for an image that is asked many questions.

Each image goes through the tower alone. Its features then depend on nothing but the image (the arithmetic of a batch
depends, in the last bits, on who else is in it), and it makes no difference for an answer whether they were kept.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol

import torch
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from hidrop.reducer import Reducer

if TYPE_CHECKING:
    from hidrop.runtime.vision import Vision

# Of LLaVA-1.5-7B in half precision: all 500 images of POPE, or the 398 of GQA twice over.
LIMIT_BYTES = 4 << 30


class Encoder(Protocol):
    """Where the features of a batch's images come from, in place of the method's own `encode`."""

    def encode(self, reducer: Reducer, vision: Vision) -> list[torch.Tensor]: ...


class FeatureCache:
    """Features of one model's images in host memory, the longest unused ones dropped beyond `limit_bytes`.

    Methods that leave the tower alone share them; one that works in it (`Reducer.encode`) has its own. A limit of 0
    keeps nothing.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()
        self.clear()

    def clear(self) -> None:
        self._kept.clear()
        self.nbytes = self.hits = self.misses = 0

    def encode(self, reducer: Reducer, vision: Vision) -> list[torch.Tensor]:
        """What `reducer.encode(vision)` gives, (tokens, D) of each image, as one image at a time gives it."""
        own = reducer if reducer.encodes else None
        return [self._of(reducer, vision.only(image), own) for image in range(len(vision.pixel_values))]

    def _of(self, reducer: Reducer, image: Vision, own: Reducer | None) -> torch.Tensor:
        layer = tuple(image.layer) if isinstance(image.layer, list) else image.layer
        key = (own, layer, image.strategy, _content(image))
        kept = self._kept.get(key)
        if kept is not None:
            self.hits += 1
            self._kept.move_to_end(key)
            return kept.to(image.pixel_values.device)
        self.misses += 1
        made = reducer.encode(image)[0].detach()
        if made.nbytes <= self.limit_bytes:
            self._kept[key] = made.cpu()
            self.nbytes += made.nbytes
            while self.nbytes > self.limit_bytes:
                self.nbytes -= self._kept.popitem(last=False)[1].nbytes
        return made


def _content(image: Vision) -> tuple[bytes, tuple[int, ...]]:
    """What tells one image's pixels from another's; waits for the device. Tiles that only fill up a batch are none."""
    pixels, size = image.pixel_values, tuple[int, ...]()
    if image.image_sizes is not None:
        config = image.model.config
        size = tuple(image.image_sizes[0].tolist())
        tiles = image_size_to_num_patches(list(size), config.image_grid_pinpoints, config.vision_config.image_size)
        pixels = pixels[:, :tiles]
    data = pixels.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(data.numpy().data, digest_size=16).digest(), size
