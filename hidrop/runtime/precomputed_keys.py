"""What a layer need not compute because it was made ahead.

Keys and values of the visual tokens in the layer where they enter are made while the layers before it run: they
depend on nothing but the features and that layer's weights, and a cut on the way in picks among them. A score by the
next layer's attention has made that layer's keys of all tokens: those of the tokens that stay are handed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from hidrop.runtime.scoring import rows


@dataclass(frozen=True)
class Projected:
    """What a layer's k_proj and v_proj make of visual tokens, (B, V, heads * head): not turned by rope yet."""

    keys: torch.Tensor
    values: torch.Tensor

    @classmethod
    def of(cls, layer: Any, hidden_BVD: torch.Tensor) -> Projected:
        normed = layer.input_layernorm(hidden_BVD)
        return cls(layer.self_attn.k_proj(normed), layer.self_attn.v_proj(normed))

    def at(self, index_BK: torch.Tensor) -> Projected:
        """Those of some of the tokens."""
        return Projected(rows(self.keys, index_BK), rows(self.values, index_BK))

    @contextmanager
    def inside(self, layer: Any, text_BT: torch.Tensor, visual_BV: torch.Tensor) -> Iterator[None]:
        """In the block the layer's projections compute the text alone; the slots are those of its sequence."""
        place = torch.cat([text_BT, visual_BV], 1).argsort(1)
        with ExitStack() as stack:
            for projection, made in ((layer.self_attn.k_proj, self.keys), (layer.self_attn.v_proj, self.values)):
                stack.enter_context(_replaced(projection, _joined(projection.forward, made, text_BT, place)))
            yield


@contextmanager
def with_keys(layer: Any, keys_BN: torch.Tensor) -> Iterator[None]:
    """In the block the layer's k_proj gives these, (B, N, heads * head), of all tokens in their order."""
    with _replaced(layer.self_attn.k_proj, lambda hidden_BND: keys_BN):
        yield


def _joined(
    project: Callable[[torch.Tensor], torch.Tensor], made: torch.Tensor, text_BT: torch.Tensor, place_BN: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(hidden_BND: torch.Tensor) -> torch.Tensor:
        return rows(torch.cat([project(rows(hidden_BND, text_BT)), made], 1), place_BN)

    return forward


@contextmanager
def _replaced(module: Any, forward: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if before is not None:
            module.forward = before
