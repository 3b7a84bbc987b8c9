"""SparseVLM's rule for the slow model, with its clustering: see slow_rules.py."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tests.baselines.slow_model import SlowLlava, Token, keep_best


@dataclass
class SparseVLMRule:
    """For one image only: counts are not scaled here. `rank`: 1.0's scale and bias, in the place of counts."""

    cuts: dict[int, int]
    compacted: bool = True
    heads: int | None = None  # 2.0: how many heads count
    rank: tuple[float, float] | None = None

    def corrected(self, slow: SlowLlava, layer: int, tokens: list[Token], raters: list[int]) -> list[float]:
        """2.0: for each head, probability over rope's own product, summed over raters; then the best heads' mean."""
        q, k, _ = slow.project(layer, tokens)
        by_head = [[0.0] * len(tokens) for _ in range(slow.heads)]
        for rater in raters:
            p = slow.probabilities(q[rater], k[: rater + 1])
            for n in range(rater + 1):
                apart = tokens[rater].position - tokens[n].position
                angles = [apart * 10000.0 ** (-2 * i / slow.size) for i in range(slow.size // 2)]
                bias = 2 * sum(map(math.cos, angles)) / math.sqrt(slow.size)
                for head in range(slow.heads):
                    by_head[head][n] += p[head, n].item() / bias / len(raters)
        visual = [i for i, t in enumerate(tokens) if t.visual]
        best = sorted(range(slow.heads), key=lambda h: -sum(by_head[h][i] for i in visual))[: self.heads]
        return [sum(by_head[h][i] for h in best) / len(best) for i in range(len(tokens))]

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer not in self.cuts:
            return after
        visual = [t.h for t in slow.whole if t.visual]
        start = max(i for i, t in enumerate(slow.whole) if t.visual) + 1
        asked = [i for i in range(start, len(slow.whole)) if slow.whole[i].label == -100]
        rating = [0.0] * len(asked)
        for v in visual:
            share = torch.stack([slow.whole[i].h @ v for i in asked]).softmax(0)
            rating = [r + s.item() / len(visual) for r, s in zip(rating, share, strict=True)]
        raters = [i for i, r in zip(asked, rating, strict=True) if r > sum(rating) / len(rating)] or asked
        text = [i for i, t in enumerate(before) if not t.visual]
        words = [i for i, t in enumerate(slow.whole) if not t.visual]
        places = [text[words.index(i)] for i in raters]
        rows = [slow.attention(layer, before, place) for place in places]
        scores = [sum(row[i] for row in rows) / len(rows) for i in range(len(after))]
        there = [i for i, t in enumerate(after) if t.visual]
        if self.heads:
            scores = self.corrected(slow, layer, before, places)
            return keep_best(after, scores, min(self.cuts[layer], len(there) - 1))[0]
        count = self.cuts[layer]
        if self.rank:
            block = torch.tensor([[row[i] for i in there] for row in rows])  # float32, as published
            rank = int(torch.linalg.matrix_rank(block))
            count = int((self.rank[0] * rank + self.rank[1]) * 16 / 576)
            if rank == len(there):
                return after
        kept, dropped = keep_best(after, scores, min(count, len(there) - 1))
        candidates = int(0.3 * len(dropped)) + 1
        chosen = sorted(dropped, key=lambda i: (-scores[i], i))[:candidates]
        merged = slow_cluster([after[i].h for i in chosen], int(candidates / 10) + 1)
        end = max((i for i, t in enumerate(kept) if t.visual), default=start - 17) + 1
        return kept[:end] + [Token(h, 0, visual=True) for h in merged] + kept[end:]


def slow_cluster(x: list[torch.Tensor], clusters: int) -> list[torch.Tensor]:
    """DPC-KNN, one loop at a time."""
    n, d = len(x), x[0].shape[0]
    far = [[(x[a] - x[b]).norm().item() / math.sqrt(d) for b in range(n)] for a in range(n)]
    density = [math.exp(-sum(s * s for s in sorted(far[a])[:clusters]) / clusters) for a in range(n)]
    apart = []
    for a in range(n):
        denser = [b for b in range(n) if density[b] > density[a] or (density[b] == density[a] and b < a)]
        apart.append(min((far[a][b] for b in denser), default=max(max(row) for row in far)))
    centres = sorted(range(n), key=lambda a: (-density[a] * apart[a], a))[:clusters]
    members: list[list[int]] = [[] for _ in centres]
    for a in range(n):
        joined = centres.index(a) if a in centres else min(range(clusters), key=lambda c: (far[a][centres[c]], c))
        members[joined].append(a)
    return [sum(x[a] for a in group) / (len(group) + 1e-6) for group in members]
