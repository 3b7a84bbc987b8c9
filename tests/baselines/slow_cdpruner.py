"""CDPruner's rule for the slow model, in float64: each choice is the one whose set has the largest determinant.

The package grows a Cholesky factor; here every candidate's determinant is computed from the whole kernel.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch

from tests.baselines.slow_model import SlowLlava, Token


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a @ b / (a.norm() * b.norm())).item()


def kernel(features: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    pairs = itertools.product(range(len(features)), repeat=2)
    values = [weights[i] * (1 if i == j else cosine(features[i], features[j])) * weights[j] for i, j in pairs]
    return torch.tensor(values, dtype=torch.float64).view(len(features), len(features))


def best_of_each_step(matrix: torch.Tensor, count: int) -> list[int]:
    """The greedy choice, in its order: of all tokens that are left, the one that gives the largest determinant."""
    chosen: list[int] = []
    while len(chosen) < count:
        rest = [i for i in range(len(matrix)) if i not in chosen]
        sizes = [torch.linalg.det(matrix[[*chosen, i]][:, [*chosen, i]]).item() for i in rest]
        chosen.append(rest[sizes.index(max(sizes))])
    return chosen


@dataclass
class CDPrunerRule:
    keep: int
    relevance: Literal["none", "embeddings"] = "none"
    weight: float = 0.5
    compacted: bool = True

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer != 0:
            return after
        visual = [t for t in after if t.visual]
        weights = self.weights(slow, visual) if self.relevance == "embeddings" else [1.0] * len(visual)
        matrix = kernel([t.h for t in visual], weights)
        count = max(self.keep * len(visual) // 16, min(self.keep, 1))  # counts are for 16 visual tokens
        places = {visual[i].place for i in best_of_each_step(matrix, count)}
        return [t for t in after if not t.visual or t.place in places]

    def weights(self, slow: SlowLlava, visual: list[Token]) -> list[float]:
        asked = [t.h for t in slow.whole if not t.visual and t.place > visual[-1].place and t.label == -100]
        if not asked:  # without a question no token is more relevant than another
            return [1.0] * len(visual)
        mean = sum(asked) / len(asked)
        found: list[float] = []
        for first in range(0, len(visual), 16):  # each image by itself
            match = [cosine(t.h, mean) for t in visual[first : first + 16]]
            found += [(m - min(match)) / (max(match) - min(match)) for m in match]
        if self.weight == 1:
            return found
        return [math.exp(self.weight / (2 * (1 - self.weight)) * rho) for rho in found]
