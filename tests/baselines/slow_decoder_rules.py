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
class DARTRule:
    keep: int
    layer: int = 2
    image: int = 4
    text: int = 4
    as_a_set: bool = True
    embedding: bool = False
    compacted: bool = False

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer != self.layer:
            return after
        if self.embedding:
            states = [t.h for t in after]
            sizes = [sum(abs(x) for x in t.h.tolist()) for t in after]
        else:
            _, keys, _ = slow.project(layer, before)
            sizes = [sum(abs(x) for x in key.flatten().tolist()) for key in keys]
            states = [slow.norm(slow.decoder.norm.weight, t.h) for t in after]
        visual = [i for i, t in enumerate(after) if t.visual]
        words = [i for i, t in enumerate(after) if not t.visual and t.label == -100]
        if not self.embedding:
            words = [i for i in words if i > visual[-1]]
        keep = for_all(self.keep, slow)

        def largest(places: list[int], count: int) -> list[int]:
            return sorted(places, key=lambda i: (-sizes[i], i))[:count]

        image = largest(visual, min(self.image, keep))
        pivots = image + largest(words, self.text)
        turns = list(set(pivots)) if self.as_a_set else pivots
        kept = set(image)
        for turn, pivot in enumerate(turns):
            share = math.ceil((keep - len(kept)) / (len(turns) - turn))
            a = states[pivot]
            cosines = {i: (a @ states[i] / (a.norm() * states[i].norm())).item() for i in visual if i not in kept}
            kept |= set(sorted(cosines, key=lambda i: (cosines[i], i))[:share])
        assert len(kept) == keep
        return [t for i, t in enumerate(after) if not t.visual or i in kept]


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
