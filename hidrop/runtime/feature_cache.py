"""Features of images that were seen before, so that the tower works once for an image that is asked many questions.

Each image goes through the tower alone. Its features then depend on nothing but the image (the arithmetic of a batch
depends, in the last bits, on who else is in it), and it makes no difference for an answer whether they were kept.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace
from typing import Any, Protocol

import torch

from hidrop.backbones.model_inputs import TowerStates, Vision
from hidrop.reducer import Reducer

# Of LLaVA-1.5-7B in half precision: all 500 images of POPE, or the 398 of GQA twice over.
LIMIT_BYTES = 4 << 30


class Encoder(Protocol):
    """Where the features of a batch's images come from, in place of the method's own `encode`."""

    def encode(self, reducer: Reducer, vision: Vision) -> list[torch.Tensor]: ...


class FeatureCache:
    """Features of one model's images in host memory, the longest unused ones dropped beyond `limit_bytes`.

    Methods that leave the tower alone share them; one that works in it (`Reducer.encode`) has its own. What these read
    off a tower with a class token (`Vision.states`) is kept as well, so that the tower works once for all of them. A
    limit of 0 keeps nothing.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._kept: OrderedDict[Hashable, tuple[torch.Tensor, ...]] = OrderedDict()
        self.clear()

    def clear(self) -> None:
        self._kept.clear()
        self._layers: dict[Hashable, Any] = {}  # the tower's layer of `Vision.states`, by the vision's settings
        self.nbytes = self.hits = self.misses = 0

    def encode(self, reducer: Reducer, vision: Vision) -> list[torch.Tensor]:
        """What `reducer.encode(vision)` gives, (tokens, D) of each image, as one image at a time gives it."""
        # Counts of a method are of a reference image, which may be another one next time.
        own = (reducer, vision.backbone.geometry) if reducer.own_features else None
        return [self._of(reducer, vision.only(image), own) for image in range(vision.count)]

    def _of(self, reducer: Reducer, image: Vision, own: Hashable) -> torch.Tensor:
        key = (own, image.key, _content(image))
        if (found := self._known(key, image.device)) is not None:
            self.hits += 1
            return found[0]
        self.misses += 1
        made = reducer.encode(image if own is None else replace(image, tower=self._states))[0].detach()
        self._keep(key, (made,))
        return made

    def _states(self, image: Vision) -> TowerStates:
        """`Vision.states` of one image."""
        key = ("states", image.key, image.interpolated, _content(image))
        if (found := self._known(key, image.device)) is not None:
            before, after = found
            return self._layers[image.key], before, after
        self._layers[image.key], before, after = image.backbone.tower_states(image)
        self._keep(key, (before.detach(), after.detach()))
        return self._layers[image.key], before, after

    def _known(self, key: Hashable, device: torch.device) -> tuple[torch.Tensor, ...] | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return tuple(tensor.to(device) for tensor in kept)

    def _keep(self, key: Hashable, made: tuple[torch.Tensor, ...]) -> None:
        size = sum(tensor.nbytes for tensor in made)
        if size > self.limit_bytes:
            return
        self._kept[key] = tuple(tensor.cpu() for tensor in made)
        self.nbytes += size
        while self.nbytes > self.limit_bytes:
            self.nbytes -= sum(tensor.nbytes for tensor in self._kept.popitem(last=False)[1])


def _content(image: Vision) -> tuple[bytes, ...]:
    """What tells one image from another: a hash of each tensor that its features depend on. Waits for the device."""
    return tuple(_hashed(tensor) for tensor in image.backbone.content(image))


def _hashed(tensor: torch.Tensor) -> bytes:
    digest = hashlib.blake2b(str(tuple(tensor.shape)).encode(), digest_size=16)
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()
