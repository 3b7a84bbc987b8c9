"""A slow and obvious LLaVA to compare every method with: one prompt, lists of tokens, float64, no mask, no batch."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import torch

IMAGE = 99  # the placeholder of a visual token, as in hidrop/testing/tiny/llava.py


@dataclass
class Token:
    h: torch.Tensor
    position: int
    visual: bool = False
    rank: int = -1
    label: int = -100
    place: int = -1


class SlowLlava:
    def __init__(self, model: Any, rule: Any) -> None:
        self.model = copy.deepcopy(model).double()
        self.rule = rule
        self.decoder = self.model.model.language_model
        config = model.config.text_config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = config.hidden_size // self.heads
        self.depth = config.num_hidden_layers
        self.kept: dict[int, tuple[int, ...]] = {}  # by layer, the visual tokens that were left after it
        self.forget()

    def forget(self) -> None:
        """Empty the cache: keys and values of each layer, (tokens, heads, size)."""
        self.cache: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * self.depth

    def norm(self, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        epsilon = self.model.config.text_config.rms_norm_eps
        return weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + epsilon)

    def rotate(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """RoPE on (tokens, heads, size): the pair (i, i + size / 2) turns by position * 10000^(-2i / size)."""
        half = self.size // 2
        angle = positions[:, None] * 10000.0 ** (-2 * torch.arange(half, dtype=torch.float64) / self.size)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def project(self, layer: int, tokens: list[Token]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, (tokens, heads, size), keys and values repeated for their group of heads."""
        block = self.decoder.layers[layer - 1]
        positions = torch.tensor([t.position for t in tokens], dtype=torch.float64)
        x, a = self.norm(block.input_layernorm.weight, torch.stack([t.h for t in tokens])), block.self_attn
        q, k, v = (p(x).view(len(tokens), -1, self.size) for p in (a.q_proj, a.k_proj, a.v_proj))
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        return self.rotate(q, positions), self.rotate(k, positions), v

    def probabilities(self, q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """One query (heads, size) on all keys (tokens, heads, size): (heads, tokens)."""
        return (torch.einsum("hd,nhd->hn", q, keys) / math.sqrt(self.size)).softmax(-1)

    @torch.no_grad()
    def attention(self, layer: int, tokens: list[Token], query: int) -> list[float]:
        """Head mean of what `query` would see in `layer`, one number per token (0 for later ones)."""
        q, k, _ = self.project(layer, tokens)
        seen = self.probabilities(q[query], k[: query + 1]).mean(0).tolist()
        return seen + [0.0] * (len(tokens) - query - 1)

    def run_layer(self, layer: int, tokens: list[Token]) -> list[Token]:
        """Each token attends to the cache and to the tokens up to itself, one at a time. The rest is of all tokens."""
        q, k, v = self.project(layer, tokens)
        cached, block = self.cache[layer - 1], self.decoder.layers[layer - 1]
        before = 0 if cached is None else len(cached[0])
        keys, values = (k, v) if cached is None else (torch.cat(pair) for pair in zip(cached, (k, v), strict=True))
        self.cache[layer - 1] = keys, values
        mixed = []
        for i in range(len(tokens)):
            seen = before + i + 1
            p = self.probabilities(q[i], keys[:seen])
            mixed.append(torch.einsum("hn,nhd->hd", p, values[:seen]).flatten())
        states = torch.stack([t.h for t in tokens]) + block.self_attn.o_proj(torch.stack(mixed))
        x = self.norm(block.post_attention_layernorm.weight, states)
        gate, up = block.mlp.gate_proj(x), block.mlp.up_proj(x)
        states = states + block.mlp.down_proj(gate * torch.sigmoid(gate) * up)
        return [replace(token, h=h) for token, h in zip(tokens, states, strict=True)]

    @torch.no_grad()
    def prefill(
        self,
        ids: list[int],
        pixels: torch.Tensor | None,
        labels: list[int] | None = None,
        generated: int = 0,  # that many of the last ids are text, whatever their number
    ) -> list[Token]:
        features: list[torch.Tensor] = []
        if pixels is not None:
            features = list(torch.cat(list(self.model.get_image_features(pixels.double()).pooler_output)))
        table, tokens, rank = self.decoder.embed_tokens.weight, [], 0
        for i, number in enumerate(ids):
            visual = number == IMAGE and i < len(ids) - generated
            h = features[rank] if visual else table[number]
            label = -100 if labels is None or visual else labels[i]
            tokens.append(Token(h, i, visual, rank if visual else -1, label, place=i))
            rank += visual
        if getattr(self.rule, "grouped", False):
            behind = itertools.count(rank)
            tokens = [replace(t, position=t.rank if t.visual else next(behind)) for t in tokens]
        self.length, self.pixels, self.training = len(ids), pixels, labels is not None
        self.ids = ids
        self.whole = tokens
        inject = getattr(self.rule, "inject", 1) if rank else 0
        now = tokens if inject <= 1 else self.compact([t for t in tokens if not t.visual])
        if rank:
            now = self.compact(self.cut(0, now, now))
            if getattr(self.rule, "entry", False):
                now = [replace(token, position=i) for i, token in enumerate(now)]
                self.length = len(now)
        for layer in range(1, self.depth + 1):
            if rank and layer == inject and layer > 1:
                now = self.compact(sorted(now + [t for t in tokens if t.visual], key=lambda t: t.place))
                now = self.compact(self.cut(layer - 1, now, now))  # a cut on the way in
            if rank and layer == getattr(self.rule, "exit", None):
                now = self.compact([t for t in now if not t.visual])
            out = self.run_layer(layer, now)
            now = self.compact(self.cut(layer, now, out)) if rank else out
        self.last = now
        return now

    def cut(self, after: int, before: list[Token], tokens: list[Token]) -> list[Token]:
        left = self.rule.after(self, after, before, tokens)
        self.kept[after] = tuple(t.rank for t in left if t.visual and t.rank >= 0)
        return left

    def compact(self, tokens: list[Token]) -> list[Token]:
        if not self.rule.compacted:
            return tokens
        return [replace(token, position=i) for i, token in enumerate(tokens)]

    def logits(self, token: Token) -> torch.Tensor:
        return self.model.lm_head.weight @ self.norm(self.decoder.norm.weight, token.h)

    @torch.no_grad()
    def step(self, number: int) -> torch.Tensor:
        h = self.decoder.embed_tokens.weight[number]
        for layer in range(1, self.depth + 1):
            cached = self.cache[layer - 1]
            position = self.length if not self.rule.compacted else 0 if cached is None else len(cached[0])
            h = self.run_layer(layer, [Token(h, position)])[0].h
        self.length += 1
        return self.logits(Token(h, 0))

    def greedy(self, ids: list[int], pixels: torch.Tensor | None, count: int) -> tuple[list[int], list[torch.Tensor]]:
        logits = [self.logits(self.prefill(ids, pixels)[-1])]
        numbers = [int(logits[-1].argmax())]
        while len(numbers) < count:
            if getattr(self.rule, "rechosen", False):
                self.forget()
                logits.append(self.logits(self.prefill(ids + numbers, pixels, generated=len(numbers))[-1]))
            else:
                logits.append(self.step(numbers[-1]))
            numbers.append(int(logits[-1].argmax()))
        return numbers, logits

    def loss(self, ids: list[int], pixels: torch.Tensor | None, labels: list[int]) -> float:
        tokens = self.prefill(ids, pixels, labels)
        terms = [
            -self.logits(a).log_softmax(-1)[b.label].item() for a, b in itertools.pairwise(tokens) if b.label != -100
        ]
        return sum(terms) / len(terms)

    def queries(self, tokens: list[Token]) -> list[int]:
        """The last token; in training every token right before an answer."""
        found = [i for i in range(len(tokens) - 1) if tokens[i].label == -100 and tokens[i + 1].label != -100]
        return found or [len(tokens) - 1]


def keep_best(tokens: list[Token], scores: list[float], count: int) -> tuple[list[Token], list[int]]:
    """The `count` visual tokens with the best scores, in their order, with all text; and the places of the dropped."""
    places = [i for i, t in enumerate(tokens) if t.visual]
    best = sorted(places, key=lambda i: (-scores[i], i))[:count]
    return [t for i, t in enumerate(tokens) if not t.visual or i in best], [i for i in places if i not in best]
