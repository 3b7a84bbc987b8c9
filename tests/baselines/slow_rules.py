"""The rule of each method for the slow model, written a second time from its description.

Nothing is shared with the package. A rule says, after each layer (0: before the first), which tokens go on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from tests.baselines.slow_cdpruner import CDPrunerRule
from tests.baselines.slow_decoder_rules import DARTRule, FeatherRule, VTWRule
from tests.baselines.slow_model import SlowLlava, Token, keep_best
from tests.baselines.slow_sparsevlm import SparseVLMRule
from tests.baselines.slow_stack import StackRule
from tests.baselines.slow_tower_rules import ChosenRule, PruMergeRule


def scaled(count: int, tokens: list[Token]) -> int:
    """Methods state counts for 16 visual tokens."""
    return max(count * len(tokens) // 16, min(count, 1))


@dataclass
class NoRule:
    compacted: bool = False

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        return after


@dataclass
class NextLayerRule:
    """HiDrop and PDrop: score with the next layer's projections."""

    cuts: dict[int, int]
    compacted: bool
    inject: int = 1
    exit: int | None = None
    grouped: bool = False
    text_queries: bool = False
    gated: bool = False
    ties: bool = False  # all that score as much as the last that stays, stay

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer not in self.cuts:
            return after
        weights = dict.fromkeys(slow.queries(after), 1.0)
        if self.text_queries:
            weights = {i: t.h.norm().item() for i, t in enumerate(after) if not t.visual and t.label == -100}
        rows = [[w * p for p in slow.attention(layer + 1, after, q)] for q, w in weights.items()]
        scores = [sum(row[i] for row in rows) / sum(weights.values()) for i in range(len(after))]
        count = scaled(self.cuts[layer], [t for t in slow.whole if t.visual])
        if self.ties:
            visual = sorted((scores[i] for i, t in enumerate(after) if t.visual), reverse=True)
            count = sum(score >= visual[count - 1] for score in visual) if count else 0
        if self.gated and slow.training:  # n (c' - a) is k minus the place in the order
            order = sorted((i for i, t in enumerate(after) if t.visual), key=lambda i: (-scores[i], i))
            gate = {i: 1 / (1 + math.exp(place - count)) for place, i in enumerate(order)}
            after = [replace(t, h=t.h * gate.get(i, 1.0)) for i, t in enumerate(after)]
        return keep_best(after, scores, count)[0]


@dataclass
class FastVRule:
    layer: int
    keep: int
    compacted: bool = False
    every_query: bool = False
    rechosen: bool = False

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer != self.layer:
            return after
        asked = [i for i, t in enumerate(before) if t.label == -100]
        queries = asked if self.every_query else slow.queries(before)
        rows = [slow.attention(layer, before, q) for q in queries]
        scores = [sum(row[i] for row in rows) / len(rows) for i in range(len(after))]
        return keep_best(after, scores, scaled(self.keep, [t for t in slow.whole if t.visual]))[0]


def splitmix(number: int) -> int:
    low = (1 << 64) - 1
    number = (number + 0x9E3779B97F4A7C15) & low
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & low
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & low
    return number ^ (number >> 31)


@dataclass
class RandomRule:
    layer: int
    keep: int
    seed: int
    compacted: bool = False

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer != self.layer:
            return after
        last = max(i for i, t in enumerate(slow.whole) if t.visual)
        question = [n for n, t in zip(slow.ids[last + 1 :], slow.whole[last + 1 :], strict=True) if t.label == -100]
        key = splitmix(sum(splitmix(number * 65537 + i + 1) for i, number in enumerate(question)) % 2**64)
        assert slow.pixels is not None
        for image in slow.pixels.float():
            bits = sum(image.contiguous().view(torch.int32).flatten().tolist())
            key += 16 * splitmix(bits % 2**64)
        scores = []
        for t in after:
            inner = splitmix((key + splitmix(self.seed)) % 2**64)
            scores.append(float(splitmix((inner + t.rank) % 2**64) >> 40 & 0xFFFFFF))
        return keep_best(after, scores, scaled(self.keep, [t for t in slow.whole if t.visual]))[0]


def parts(length: int, count: int) -> list[list[int]]:
    """0 .. length - 1 in `count` runs of about equal length."""
    return [[n for n in range(length) if n * count // length == part] for part in range(count)]


def grid(side: int, count: int) -> list[list[int]]:
    """The numbers of the patches in each of `count` cells of an image."""
    bands = min(side, max(round(math.sqrt(count)), math.ceil(count / side)))
    cells = []
    for band, ys in enumerate(parts(side, bands)):
        wide = (band + 1) * count // bands - band * count // bands
        cells += [[y * side + x for y in ys for x in xs] for xs in parts(side, wide)]
    return cells


@dataclass
class UniformRule:
    keep: int
    layer: int = 0
    compacted: bool = False

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer != self.layer:
            return after
        middles = []
        for cell in grid(4, self.keep):
            ys, xs = sorted({n // 4 for n in cell}), sorted({n % 4 for n in cell})
            middles.append(ys[(len(ys) - 1) // 2] * 4 + xs[(len(xs) - 1) // 2])
        return [t for t in after if not t.visual or t.rank % 16 in middles]


def instead(tokens: list[Token], features: list[torch.Tensor]) -> list[Token]:
    """The tokens with these features where the image was. For one image."""
    places = [i for i, t in enumerate(tokens) if t.visual]
    first = tokens[places[0]].place
    made = [Token(h, first + n, visual=True, place=first + n) for n, h in enumerate(features)]
    return [*tokens[: places[0]], *made, *tokens[places[-1] + 1 :]]


@dataclass
class PoolRule:
    """For one image."""

    keep: int
    compacted: bool = True

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer != 0:
            return after
        visual = [t for t in after if t.visual]
        means = [sum(visual[n].h for n in cell) / len(cell) for cell in grid(4, self.keep)]
        return instead(after, means)


@dataclass
class DivPruneRule:
    """For one image, or several: the farthest from what is chosen, one at a time."""

    keep: int
    compacted: bool = True

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer != 0:
            return after
        visual = [t for t in after if t.visual]

        def far(a: Token, b: Token) -> float:
            return 1 - (a.h @ b.h / (a.h.norm() * b.h.norm())).item()

        chosen = [max(visual, key=lambda t: min(far(t, other) for other in visual if other is not t))]
        while len(chosen) < scaled(self.keep, visual):
            rest = [t for t in visual if all(t is not c for c in chosen)]
            chosen.append(max(rest, key=lambda t: min(far(t, c) for c in chosen)))
        places = {t.place for t in chosen}
        return [t for t in after if not t.visual or t.place in places]


@dataclass
class DownsampleRule:
    side: int
    compacted: bool = True

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer != 0:
            return after
        size = (8 * self.side, 8 * self.side)
        small = torch.nn.functional.interpolate(slow.pixels.float(), size, mode="bicubic", antialias=True).double()
        features = slow.model.get_image_features(small, interpolate_pos_encoding=True).pooler_output
        return instead(after, list(features[0]))


@dataclass
class VisionZipRule:
    dominant: int
    contextual: int
    compacted: bool = True

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer != 0:
            return after
        tower, projector = slow.model.model.vision_tower, slow.model.model.multi_modal_projector
        states = tower(slow.pixels.double(), output_hidden_states=True).hidden_states
        x, features, block = states[0][0], states[1][0], tower.encoder.layers[0]  # LLaVA's layer -2 of two
        heads, size = 2, 12
        normed = [block.layer_norm1(t) for t in x]
        query = block.self_attn.q_proj(normed[0]).view(heads, size)
        keys = [block.self_attn.k_proj(t).view(heads, size) for t in normed]
        seen = [0.0] * len(keys)
        for head in range(heads):
            logits = torch.stack([query[head] @ k[head] / math.sqrt(size) for k in keys])
            seen = [s + p.item() for s, p in zip(seen, logits.softmax(0), strict=True)]
        patches = range(1, len(keys))
        # The class token is one of the dominant tokens: 54 + 10 is 53 patches, the class token and 10 merged ones.
        kept = sorted(sorted(patches, key=lambda i: (-seen[i], i))[: self.dominant - 1])
        rest = [i for i in patches if i not in kept]
        targets = [rest[n * (len(rest) // self.contextual)] for n in range(self.contextual)]
        joined: dict[int, list[torch.Tensor]] = {target: [] for target in targets}
        for i in rest:
            if i not in targets:
                a = keys[i].mean(0)
                near = [(a @ keys[t].mean(0) / (a.norm() * keys[t].mean(0).norm())).item() for t in targets]
                joined[targets[near.index(max(near))]].append(features[i])
        merged = [features[t] + (sum(who) / len(who) if who else 0) for t, who in joined.items()]
        return instead(after, [projector(f) for f in [features[0], *(features[i] for i in kept), *merged]])


@dataclass
class TextOnlyRule:
    compacted: bool = True

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        return [t for t in after if not t.visual]


def stack(*rules: tuple[Any, tuple[int, ...]], **settings: Any) -> Callable[[], StackRule]:
    """Counts of a later rule are still of 16 tokens: 8 is half of what the rule before it has left."""
    return lambda: StackRule([(copy.copy(rule), layers) for rule, layers in rules], **settings)


RULES: dict[str, Callable[[], Any]] = {
    "vanilla": NoRule,
    "hidrop": lambda: NextLayerRule({3: 5, 4: 2}, compacted=False, inject=2, exit=6),
    "hidrop-group": lambda: NextLayerRule({3: 5, 4: 2}, compacted=False, inject=2, exit=6, grouped=True),
    "hidrop-compacted": lambda: NextLayerRule({3: 5, 4: 2}, compacted=True, inject=2, exit=6),
    "hidrop-ste": lambda: NextLayerRule({3: 5, 4: 2}, compacted=False, inject=2, exit=6),
    "hidrop-soft-gate": lambda: NextLayerRule({3: 5, 4: 2}, compacted=False, inject=2, exit=6, gated=True),
    "hidrop-ties": lambda: NextLayerRule({3: 5, 4: 2}, compacted=False, inject=2, exit=6, ties=True),
    "hidrop-text": lambda: NextLayerRule({3: 5, 4: 2}, compacted=False, inject=2, exit=6, text_queries=True),
    "hidrop-cut-on-entry": lambda: NextLayerRule({2: 7, 3: 2}, compacted=False, inject=3, exit=5),
    "fastv": lambda: FastVRule(2, 5),
    "fastv-all": lambda: FastVRule(2, 5, every_query=True),
    "fastv-rechosen": lambda: FastVRule(2, 5, rechosen=True),
    "pdrop": lambda: NextLayerRule({1: 8, 3: 4, 4: 2}, compacted=True),
    "pdrop-persistent": lambda: NextLayerRule({1: 8, 3: 4, 4: 2}, compacted=False),
    "pdrop-ratio": lambda: NextLayerRule({2: 9, 4: 5}, compacted=True),
    "sparsevlm": lambda: SparseVLMRule({1: 8, 2: 6, 3: 3}),
    "sparsevlm-strong": lambda: SparseVLMRule({2: 3, 4: 1}),
    "sparsevlm-2.0": lambda: SparseVLMRule({1: 8, 2: 6, 3: 3}, compacted=False, heads=2),
    "sparsevlm-2.0-strong": lambda: SparseVLMRule({2: 3, 4: 1}, compacted=False, heads=3),
    "sparsevlm-1.0": lambda: SparseVLMRule({1: 0, 2: 0, 3: 0, 4: 0}, rank=(100.0, 50.0)),
    "sparsevlm-1.0-strong": lambda: SparseVLMRule({2: 0, 4: 0}, rank=(30.0, 0.0)),
    "random": lambda: RandomRule(2, 5, seed=3),
    "random-before-decoder": lambda: RandomRule(0, 4, seed=0),
    "uniform": lambda: UniformRule(5),
    "uniform-after-a-layer": lambda: UniformRule(7, layer=1),
    "pool": lambda: PoolRule(5),
    "divprune": lambda: DivPruneRule(5),
    "visionzip": lambda: VisionZipRule(4, 2),
    "visionzip-one": lambda: VisionZipRule(7, 1),
    "fastervlm": lambda: ChosenRule(method="fastervlm", settings=(5,)),
    "vispruner": lambda: ChosenRule(method="vispruner", settings=(6, 0.5, 8)),
    "vispruner-step": lambda: ChosenRule(method="vispruner", settings=(7, 0.3, 2)),
    "holov": lambda: ChosenRule(method="holov", settings=(6, 4)),
    "holov-score": lambda: ChosenRule(method="holov", settings=(7, 3, 0.5, True)),
    "prumerge": lambda: PruMergeRule(neighbours=3),
    "prumerge-keep": lambda: PruMergeRule(keep=5, neighbours=4),
    "prumerge-plus": lambda: PruMergeRule(plus=True, keep=8, neighbours=32),
    "cdpruner": lambda: CDPrunerRule(5, "embeddings"),
    "cdpruner-none": lambda: CDPrunerRule(5),
    "cdpruner-weighted": lambda: CDPrunerRule(4, "embeddings", weight=1),
    "downsample": lambda: DownsampleRule(2),
    "downsample-odd": lambda: DownsampleRule(3),
    "text_only": TextOnlyRule,
    "stack-duet": stack((VisionZipRule(4, 2), (0,)), (NextLayerRule({3: 8, 4: 1}, True), (3, 4)), compacted=True),
    "stack-vscan": stack((VisionZipRule(6, 2), (0,)), (NextLayerRule({3: 4}, False), (3,)), entry=True),
    "stack-entry": stack((VisionZipRule(4, 2), (0,)), (FastVRule(2, 8), (2,)), entry=True),
    "stack-kept-positions": stack((VisionZipRule(4, 2), (0,)), (FastVRule(2, 8), (2,))),
    "stack-late": stack((DivPruneRule(8), (0,)), (NextLayerRule({3: 10, 4: 4}, False), (3, 4)), inject=2, exit=6),
    "stack-downsample": stack((DownsampleRule(3), (0,)), (FastVRule(2, 8), (2,)), entry=True),
    "stack-downsample-divprune": stack((DownsampleRule(3), (0,)), (DivPruneRule(8), (0,)), compacted=True),
    "stack-vitcop": stack(
        (ChosenRule(method="fastervlm", settings=(10,)), (0,)),
        (FastVRule(1, 10), (1,)),
        (NextLayerRule({4: 8}, False), (4,)),
        entry=True,
    ),
    "stack-exit": stack((FastVRule(2, 5), (2,)), exit=5),
    "stack-sparsevlm": stack((DivPruneRule(10), (0,)), (SparseVLMRule({2: 3, 4: 1}), (2, 4)), compacted=True),
    "stack-sparsevlm-2.0": stack(
        (FastVRule(1, 10), (1,)), (SparseVLMRule({2: 3, 4: 1}, compacted=False, heads=3), (2, 4))
    ),
    "dart": lambda: DARTRule(7),
    "dart-norm": lambda: DARTRule(9, layer=1, image=2, text=1, as_a_set=False),
    "dart-embedding": lambda: DARTRule(6, layer=0, as_a_set=False, embedding=True),
    "feather": lambda: FeatherRule((1, 3), (0.3, 0.09), 3, keep=(8, 1)),
    "feather-late": lambda: FeatherRule((2, 4), (0.4, 0.3), 2, keep=(10, 4)),
    "feather-released": lambda: FeatherRule((1, 3), (0.65, 0.2), 2, keep=(None, 3)),
    "vtw": lambda: VTWRule(4),
    "vtw-compacted": lambda: VTWRule(2, compacted=True),
}
