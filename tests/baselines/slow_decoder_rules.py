"""The rules of DART, FEATHER and VTW for the slow model, written a second time from their descriptions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from tests.baselines.slow_model import SlowLlava, Token, keep_best


def for_all(count: int, slow: SlowLlava) -> int:
    """Methods state counts for 16 visual tokens."""
    return max(count * sum(t.visual for t in slow.whole) // 16, min(count, 1))


@dataclass
class FeatherRule:
    """`keep`: what is filled up to after each of the layers; None: no more than the best and the grid."""

    layers: tuple[int, int]
    shares: tuple[float, float]
    stride: int
    keep: tuple[int | None, int]
    compacted: bool = False

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer not in self.layers:
            return after
        unturned = [replace(t, position=0) for t in before]
        queries, keys, _ = slow.project(layer, unturned)
        scores = [0.0] * len(before)
        for q in slow.queries(before):
            seen = [i for i, t in enumerate(before) if t.visual and i <= q]
            for head in range(slow.heads):
                logits = torch.stack([queries[q, head] @ keys[i, head] / math.sqrt(slow.size) for i in seen])
                for i, p in zip(seen, logits.softmax(0).tolist(), strict=True):
                    scores[i] += p
        if layer == self.layers[1]:
            return keep_best(after, scores, for_all(self.keep[1], slow))[0]
        visual = sorted((i for i, t in enumerate(after) if t.visual), key=lambda i: (-scores[i], i))
        inside = {i: after[i].rank % 16 for i in visual}
        grid = [i for i in visual if inside[i] // 4 % self.stride == 0 and inside[i] % 4 % self.stride == 0]
        others = [i for i in visual if i not in grid]
        if self.keep[0] is None:
            kept = {*grid, *visual[: math.floor(self.shares[0] * len(visual) + 1e-6)]}
        else:
            kept = {*(grid + others)[: for_all(self.keep[0], slow)]}
        return [t for i, t in enumerate(after) if not t.visual or i in kept]


@dataclass
class VTWRule:
    exit: int
    compacted: bool = False

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        return after
