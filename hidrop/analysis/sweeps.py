"""Answers when visual tokens leave early or enter late, at every layer. The layers before are run once for all."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import torch

from hidrop.analysis.walk import Walk
from hidrop.runtime.sequence import Sequence

Answers = list[list[int]]


@dataclass(frozen=True)
class Decoding:
    """How answers are made: greedily, at most `longest` tokens, up to one of `ends`."""

    longest: int
    ends: SequenceOf[int]


@dataclass
class Leaving:
    """Deep-to-shallow masking: the answers when a share of the visual tokens leaves right before a layer.

    Used as `at` of `probes.measure`. `answers[share][layer - 1]`: token ids of each row. `own`: those of the unreduced
    model. With a share below 1, random tokens stay, the same ones in every layer.
    """

    walk: Walk
    decoding: Decoding
    shares: SequenceOf[float]
    seeds: SequenceOf[int]  # of each row
    answers: dict[float, list[Answers]] = field(default_factory=dict)
    own: Answers = field(default_factory=list)

    def __post_init__(self) -> None:
        visual_BV = self.walk.layout.visual_BV
        rank = torch.zeros(visual_BV.shape)
        for row, (seed, count) in enumerate(zip(self.seeds, self.walk.layout.visual_counts, strict=True)):
            # A draw for each token of the row, whatever the other rows have: fillers are at the left.
            draw = torch.rand(count, generator=torch.Generator().manual_seed(seed))
            rank[row, visual_BV.shape[1] - count :] = draw
        self._rank = rank.to(visual_BV.device)

    def __call__(self, layer: int, sequence: Sequence) -> None:
        if layer > len(self.walk.decoder.layers):
            self.own = self._answered(layer, 0.0, sequence)
            return
        for share in self.shares:
            self.answers.setdefault(share, []).append(self._answered(layer, share, sequence))

    def _answered(self, layer: int, share: float, sequence: Sequence) -> Answers:
        branch = self.walk.leaving(sequence, self._rank, share) if share else self.walk.own(sequence)
        return self.walk.answers(layer, branch, self.decoding.longest, self.decoding.ends)


def entering(walk: Walk, decoding: Decoding) -> list[Answers]:
    """Training-free late injection: token ids of each row when the visual tokens enter right before layer 1 .. L.

    `walk` has to be blind. On weights that were not trained with late injection, this is an upper bound of the harm.
    """
    return [
        walk.answers(layer, walk.entering(layer, sequence), decoding.longest, decoding.ends)
        for layer, sequence in walk.stations()
        if layer <= len(walk.decoder.layers)
    ]
