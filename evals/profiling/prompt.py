"""The synthetic request that is timed: images of noise between random text tokens. Time does not depend on content.

Legend: B batch, S tokens of the prompt (text and visual), N generated tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from evals.profiling.point import Point
from hidrop.backbones import backbone_of
from hidrop.cache_name import cache_name
from hidrop.geometry import Geometry


@dataclass(frozen=True)
class SyntheticRequest:
    """Model inputs of a batch of requests of equal length, and the tokens that decoding feeds in."""

    input_ids_BS: torch.Tensor
    attention_mask_BS: torch.Tensor
    # The model's inputs for the images, by name.
    images: dict[str, torch.Tensor]
    visual_tokens: int  # of one request, all its images together
    # Chosen in advance, because a model with random weights might produce the image placeholder.
    continuation_BN: torch.Tensor

    def prefill_inputs(self) -> dict[str, Any]:
        """Arguments of the forward that gives the first token: a new cache, logits of the last position only."""
        return {
            "input_ids": self.input_ids_BS,
            "attention_mask": self.attention_mask_BS,
            **self.images,
            "use_cache": True,
            "logits_to_keep": 1,
        }

    def decode_inputs(self, step: int, cache: Any) -> dict[str, Any]:
        """Arguments of the forward for generated token `step` (from 0), as `generate()` passes them.

        Mask and position count the whole prompt. The runtime handles layers with fewer tokens.
        """
        batch, length = self.input_ids_BS.shape
        mask = self.attention_mask_BS.new_ones(batch, length + step + 1)
        position = self.input_ids_BS.new_full((batch, 1), length + step)
        return {
            "input_ids": self.continuation_BN[:, step : step + 1],
            "attention_mask": mask,
            "position_ids": position,
            cache_name(): cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }


def build_request(model: Any, geometry: Geometry, point: Point, tokens: int | None = None) -> SyntheticRequest:
    """`point.batch` different requests with `point.text_tokens` text tokens and `point.images` images each.

    Where images differ in their tokens, they are the family's nominal ones: of the most tiles, or of the reference
    tokens (or of about `tokens`).

    Half of the text is before the images, spread evenly over them. Everything is drawn from `point.seed` on the CPU, so
    all devices get the same request.
    """
    device = model.device
    generator = torch.Generator().manual_seed(point.seed)
    backbone = backbone_of(model)
    if tokens is not None:
        backbone.counting(tokens)
    forbidden = named_ids(model.config.to_dict())
    words = torch.tensor([i for i in range(geometry.vocab) if i not in forbidden])

    def text(count: int) -> torch.Tensor:
        return words[torch.randint(len(words), (point.batch, count), generator=generator)]

    before, visual = point.text_tokens // 2, backbone.pixel_tokens
    image = torch.full((point.batch, visual), backbone.placeholder_id)
    parts: list[torch.Tensor] = []
    for number in range(point.images):
        parts += [text(before * (number + 1) // point.images - before * number // point.images), image]
    ids = torch.cat([*parts, text(point.text_tokens - before)], dim=1).to(device)
    pixels = torch.randn(point.batch * point.images, *backbone.pixel_shape, generator=generator)
    return SyntheticRequest(
        input_ids_BS=ids,
        attention_mask_BS=torch.ones_like(ids),
        images=backbone.inputs_for(pixels.to(device=device, dtype=model.dtype)),
        visual_tokens=visual * point.images,
        continuation_BN=text(point.new_tokens).to(device),
    )


def named_ids(config: Mapping[str, Any]) -> set[int]:
    """The ids that a config names, which are no words: placeholders, beginnings and ends of images, padding, ends."""
    found: set[int] = set()
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= named_ids(value)
        elif str(name).endswith(("_token_id", "_token_index")):  # other dicts of a config have numbers as keys
            found |= {one for one in (value if isinstance(value, list) else [value]) if isinstance(one, int)}
    return found
