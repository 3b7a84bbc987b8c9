"""The rules of methods that work in the vision tower (FasterVLM, VisPruner, HoloV, PruMerge), in plain Python.

Nothing is shared with the package. The functions take and give lists, so that their own tests can feed them with worked
examples; the rules run them on the tower of the slow model, for one image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tests.baselines.slow_model import SlowLlava, Token

Vector = torch.Tensor
HEADS, SIZE = 2, 12  # of the tiny tower


def cosine(a: Vector, b: Vector) -> float:
    return (a @ b / (a.norm() * b.norm())).item()


def best_first(places: Sequence[int], scores: Sequence[float]) -> list[int]:
    return sorted(places, key=lambda i: (-scores[i], i))


def slow_fastervlm(seen: Sequence[float], keep: int) -> list[int]:
    return sorted(best_first(range(len(seen)), seen)[:keep])


def slow_vispruner(seen: Sequence[float], x: Sequence[Vector], keep: int, share: float, step: int) -> list[int]:
    order = best_first(range(len(seen)), seen)
    important, rest = order[: int(keep * share)], order[int(keep * share) :]
    wanted = keep - len(important)
    if not wanted:
        return sorted(important)
    while len(rest) > wanted:
        first, second = rest[::2], rest[1::2]
        similar = {i: max(cosine(x[i], x[j]) for j in second) for i in first}
        by_similarity = sorted(first, key=lambda i: (-similar[i], first.index(i)))
        dropped = min(step, len(rest) - wanted, len(first))
        rest = by_similarity[dropped:] + second
    return sorted(important + rest)


def slow_quotas(weights: Sequence[float], sizes: Sequence[int], keep: int) -> list[int]:
    shares = [w / (sum(weights) + 1e-6) for w in weights]
    quotas = [math.floor(keep * share) for share in shares]
    largest = best_first(range(len(shares)), shares)
    for crop in largest[: keep - sum(quotas)]:
        quotas[crop] += 1
    given = [min(quota, size) for quota, size in zip(quotas, sizes, strict=True)]
    for crop in largest:
        given[crop] += min(keep - sum(given), sizes[crop] - given[crop])
    return given


def slow_holov(
    seen: Sequence[float], x: Sequence[Vector], keep: int, crops: int, alpha: float = 0.09, by_score: bool = False
) -> list[int]:
    crops = min(crops, len(seen))
    least, longer = divmod(len(seen), crops)
    runs: list[list[int]] = []
    for crop in range(crops):
        first = sum(map(len, runs))
        runs.append(list(range(first, first + least + (crop < longer))))
    score, weights = [0.0] * len(seen), []
    for run in runs:
        others = max(1, len(run) - 1)
        variety = {}
        for i in run:
            row = [0.0 if i == j else (x[i] @ x[j]).item() / ((x[i].norm() + 1e-6) * (x[j].norm() + 1e-6)) for j in run]
            mean = sum(row) / others
            variety[i] = sum((s - mean) ** 2 for s in row) / others
        scale = (sum(1000 * seen[i] for i in run) / len(run)) / (sum(variety.values()) / len(run) + 1e-6)
        for i in run:
            score[i] = 1000 * seen[i] + alpha * scale * variety[i]
        weights.append(sum(score[i] for i in run) / len(run))
    found: list[int] = []
    for run, quota in zip(runs, slow_quotas(weights, [len(run) for run in runs], keep), strict=True):
        found += run if quota >= len(run) else best_first(run, score if by_score else seen)[:quota]
    return found


def quartile(values: Sequence[float], share: float) -> float:
    ordered, at = sorted(values), share * (len(values) - 1)
    low = math.floor(at)
    return ordered[low] + (at - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low])


def slow_staying(seen: Sequence[float], plus: bool, keep: int | None) -> list[int]:
    """The patches that PruMerge keeps, in the order of their tokens."""
    order = best_first(range(len(seen)), seen)
    if keep is not None:
        others = (keep - 1) // 2 if plus else 0
        best = order[: keep - 1 - others]
        rest = [i for i in range(len(seen)) if i not in best]
        return best + [rest[math.floor((part + 0.5) * len(rest) / others)] for part in range(others)]
    low, high = quartile(seen, 0.25), quartile(seen, 0.75)
    best = [i for i in order if seen[i] > high + 1.5 * (high - low)]
    if not plus:
        return best
    ratio = max(1, len(best)) / len(seen)
    stride = max(1, int(int(1 / ratio + 1e-9) / 3))
    return best + [i for i in range(0, len(seen) - 1, stride) if i not in best]


def slow_merged(
    seen: Sequence[float], x: Sequence[Vector], keys: Sequence[Vector], stay: Sequence[int], neighbours: int
) -> list[Vector]:
    tokens = []
    for i in stay:
        others = [j for j in range(len(seen)) if j != i]
        nearest = sorted(others, key=lambda j: (-cosine(keys[i], keys[j]), j))[:neighbours]
        tokens.append(x[i] + sum(seen[j] * x[j] for j in nearest))
    gone = [j for j in range(len(seen)) if j not in stay]
    return [*tokens, torch.stack([seen[j] * x[j] for j in gone]).sum(0)] if gone else tokens


@dataclass
class Tower:
    """LLaVA's layer -2 of two, and the layer after it."""

    slow: SlowLlava

    def __post_init__(self) -> None:
        tower, pixels = self.slow.model.model.vision_tower, self.slow.pixels
        assert pixels is not None
        states = tower(pixels.double(), output_hidden_states=True).hidden_states
        self.before, self.features, self.blocks = states[0][0], states[1][0], tower.encoder.layers

    def class_attention(self) -> list[float]:
        """Of each patch, mean over heads."""
        block = self.blocks[0]
        normed = [block.layer_norm1(t) for t in self.before]
        query = block.self_attn.q_proj(normed[0]).view(HEADS, SIZE)
        keys = [block.self_attn.k_proj(t).view(HEADS, SIZE) for t in normed]
        seen = [0.0] * len(keys)
        for head in range(HEADS):
            logits = torch.stack([query[head] @ k[head] / math.sqrt(SIZE) for k in keys])
            seen = [s + p.item() / HEADS for s, p in zip(seen, logits.softmax(0), strict=True)]
        return seen[1:]

    def big_head(self) -> tuple[list[float], list[Vector]]:
        """Of each patch, what one head of the tower's whole width gives it in the next layer, and its key there."""
        block = self.blocks[1]
        normed = [block.layer_norm1(t) for t in self.features]
        query, keys = block.self_attn.q_proj(normed[0]), [block.self_attn.k_proj(t) for t in normed]
        seen = torch.stack([query @ k / math.sqrt(len(query)) for k in keys]).softmax(0)
        return seen[1:].tolist(), keys[1:]


@dataclass
class TowerRule:
    """Base: other tokens where the image was. For one image."""

    compacted: bool = True

    def tokens(self, tower: Tower) -> list[Vector]:
        raise NotImplementedError

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer != 0:
            return after
        project = slow.model.model.multi_modal_projector
        places = [i for i, t in enumerate(after) if t.visual]
        first, features = after[places[0]].place, self.tokens(Tower(slow))
        made = [Token(project(x), 0, visual=True, place=first + n) for n, x in enumerate(features)]
        return [*after[: places[0]], *made, *after[places[-1] + 1 :]]


@dataclass
class ChosenRule(TowerRule):
    method: str = ""
    settings: tuple[Any, ...] = ()

    def tokens(self, tower: Tower) -> list[Vector]:
        seen, x = tower.class_attention(), tower.features[1:]
        projected = list(tower.slow.model.model.multi_modal_projector(x))
        if self.method == "fastervlm":
            places = slow_fastervlm(seen, *self.settings)
        elif self.method == "vispruner":
            places = slow_vispruner(seen, list(x), *self.settings)
        else:
            places = slow_holov(seen, projected, *self.settings)
        return [x[i] for i in places]


@dataclass
class PruMergeRule(TowerRule):
    plus: bool = False
    keep: int | None = None
    neighbours: int = 32

    def tokens(self, tower: Tower) -> list[Vector]:
        seen, keys = tower.big_head()
        stay = slow_staying(seen, self.plus, self.keep)
        return slow_merged(seen, list(tower.features[1:]), keys, stay, self.neighbours)
