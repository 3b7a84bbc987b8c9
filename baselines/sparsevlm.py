"""SparseVLM (ICML 2025, arXiv 2410.04417): text-guided progressive pruning with recycling.

Versions: 1.0, 1.5 (the released code's default) and 2.0 ("SparseVLM+"). Raters are the text tokens after the image
whose softmax share of the image-text dot products (input embeddings, no scaling) is strictly above the mean. At each
cut the layer that has just run scores its own output: its attention, softmax over all keys, mean over heads and raters.
The best tokens stay, in order. The best 30 % of the dropped ones are clustered by DPC-KNN, and one mean per cluster is
put after the kept ones. Positions are renumbered after each cut, and each layer continues from its own length.

1.0 keeps `scale` times the rank of the raters' attention to the image, plus `bias`, so the number depends on the
sample. If the rank is full, nothing is cut.

2.0 keeps the positions, recycles nothing, divides the probabilities by what RoPE alone gives a key at that distance,
and averages over the `heads` heads that attend to the image most (14: the code's constant for all models).

Conventions: layers are 1-based (3, 7, 16 are the code's 2, 6, 15; 1.0 also cuts after layer 20). The `label` 192 of
1.5 has 206.5 tokens on average. Unlike the released code: float32 throughout; ties are broken by index, not by
noise; without any rater, all text after the image rates; rows of a batch are independent; counts scale with the
image's size and layers with the depth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hidrop.budget import earlier_layers
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import BudgetError, Mixture, Positions, Published, Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.scoring import Prompt, Queries, View

# Tokens kept after each cut of a 32-layer decoder with 576 visual tokens, by the authors' name of the setting.
PUBLISHED = {
    "1.5": {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
    "2.0": {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
}
# Version 1.0: tokens per rank (scale), and tokens in addition (bias).
PUBLISHED_RANKS = {192: (13.5, 0.0), 128: (9.0, 6.0), 64: (0.8, 0.0)}
PUBLISHED_LAYERS = {"1.0": (3, 7, 16, 20), "1.5": (3, 7, 16), "2.0": (3, 7, 16)}
PUBLISHED_DEPTH, PUBLISHED_IMAGE = 32, 576


@dataclass(frozen=True)
class SparseVLM(Reducer):
    """Keep `keep[i]` tokens after `layers[i]` and recycle some of the rest.

    `label` (192, 128, 96 or 64; by default 192) is the name of a published `keep`, scaled to the image. In version 1.0
    it is the name of a published `scale` and `bias`, which are those of a prompt with 576 visual tokens.
    """

    label: int | None = None
    layers: tuple[int, ...] | None = None
    keep: tuple[int, ...] | None = None
    version: Literal["1.0", "1.5", "2.0"] = "1.5"
    heads: int = 14
    scale: float | None = None
    bias: float = 0.0
    positions: Positions | None = None

    name: ClassVar[str] = "sparsevlm"
    counts: ClassVar[tuple[str, ...]] = ("keep",)
    paper: ClassVar[str] = (
        "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference, ICML 2025, "
        "https://arxiv.org/abs/2410.04417"
    )
    code: ClassVar[str] = "https://github.com/Gumpest/SparseVLMs"
    published: ClassVar[Mapping[str, Published]] = {
        f"{prefix}{label}": Published({"version": version, "label": label})
        for prefix, version, labels in (
            ("", "1.5", PUBLISHED["1.5"]),
            ("v2.0-", "2.0", PUBLISHED["2.0"]),
            ("v1.0-", "1.0", PUBLISHED_RANKS),
        )
        for label in labels
    }

    @property
    def released_positions(self) -> Positions:
        return "persistent" if self.version == "2.0" else "compacted"

    @property
    def adaptive(self) -> bool:
        return self.version == "1.0"

    @property
    def published_as(self) -> str | None:
        return None if self.keep or self.scale is not None else str(self.label or 192)

    def schedule(self, geometry: Geometry) -> Schedule:
        layers = self.layers or scaled_layers(geometry.layers, self.version)
        if self.adaptive:
            self._ranks()
            return Schedule(cuts=tuple(Cut(layer, geometry.visual_tokens) for layer in layers))
        keep = self._counts(geometry)
        if len(layers) != len(keep):
            raise ValueError(f"keep: {len(keep)} counts for {len(layers)} layers {list(layers)}")
        there, cuts = geometry.visual_tokens, []
        for layer, count in zip(layers, keep, strict=True):
            count = min(count, there - 1)  # as in the released code, a cut always prunes a token
            cuts.append(Cut(layer, count, 0 if self.version == "2.0" else recycled(there - count)[1]))
            there = cuts[-1].left
        return Schedule(cuts=tuple(cuts))

    def _ranks(self) -> tuple[float, float]:
        """Version 1.0: tokens per rank (scale), and tokens in addition (bias)."""
        if self.keep is not None:
            raise ValueError("keep: version 1.0 has no fixed counts; give a label, or scale and bias")
        if self.scale is None:
            return self._of_label(PUBLISHED_RANKS)
        if self.label is not None:
            raise ValueError("label: it is the name of a published scale and bias; give one of the two")
        return self.scale, self.bias

    def _of_label(self, published: dict[int, Any]) -> Any:
        label = 192 if self.label is None else self.label
        if label not in published:
            raise ValueError(f"label: {label} is not published; there are {', '.join(map(str, published))}")
        return published[label]

    def _counts(self, geometry: Geometry) -> tuple[int, ...]:
        if self.scale is not None:
            raise ValueError(f"scale: a field of version 1.0, not of {self.version}; give keep")
        if self.keep is not None:
            if self.label is not None:
                raise ValueError("label: it is the name of a published keep; give one of the two")
            return self.keep
        published = self._of_label(PUBLISHED[self.version])
        return tuple(max(1, round(n * geometry.visual_tokens / PUBLISHED_IMAGE)) for n in published)

    def prepare(self, prompt: Prompt) -> torch.Tensor:
        """The weight of each text token as a rater, (B, T)."""
        import torch

        none = ~prompt.question_BT.any(1, keepdim=True)
        asked = prompt.question_BT | (none & prompt.text_valid_BT)
        match = prompt.visual_BVD.float() @ prompt.text_BTD.float().transpose(1, 2)
        share = match.masked_fill(~asked[:, None], -torch.inf).softmax(-1)
        valid = prompt.visual_valid_BV[:, :, None]
        rating = torch.where(valid, share, 0).sum(1) / valid.sum(1).clamp(min=1)
        raters = asked & (rating > rating.sum(1, keepdim=True) / asked.sum(1, keepdim=True))
        raters = raters | (asked & ~raters.any(1, keepdim=True))
        return raters.float() / raters.sum(1, keepdim=True)

    def score(self, view: View) -> torch.Tensor:
        raters = view.text_queries(view.memory)
        return self._corrected(view, raters) if self.version == "2.0" else view.attention_to_visual("this", raters)

    def choose(self, view: View) -> tuple[torch.Tensor, tuple[Cut, ...]]:
        """Version 1.0: the rank of the matrix raters x image tokens, by SVD in float32 with the usual tolerance."""
        import torch

        raters, valid = view.text_queries(view.memory), view.valid_BV
        seen = view.on_visual(view.attention("this", raters))
        rates = raters.weight_BQ > 0
        block = torch.where(rates[:, :, None] & valid[:, None], seen, 0)
        longer = torch.maximum(rates.sum(1), valid.sum(1))
        ranks = torch.linalg.matrix_rank(block, rtol=longer * torch.finfo(block.dtype).eps).tolist()
        scale, bias = self._ranks()
        cuts = []
        for there, rank, whole in zip(view.cut.there, ranks, view.layout.visual_counts, strict=True):
            keep = max(0, min(int((scale * rank + bias) * whole / PUBLISHED_IMAGE), there - 1))
            pruned = there - keep
            cuts.append(Cut(view.layer, keep, recycled(pruned)[1]) if rank < there else Cut(view.layer, there))
        return (seen * raters.weight_BQ[:, :, None]).sum(1), tuple(cuts)

    def _corrected(self, view: View, raters: Queries) -> torch.Tensor:
        """Version 2.0: the mean over raters and chosen heads of probability divided by RoPE bias, (B, V)."""
        import torch

        from hidrop.topk import top_indices

        seen, used = view.attention_by_head("this", raters), (raters.weight_BQ > 0)[:, None, :, None]
        # Small heads in bfloat16 have a bias of exactly 0, where what does not count would become NaN.
        each = torch.where(used & (seen > 0), seen / view.rope_bias(raters)[:, None], 0)
        mean = torch.einsum("bhqn,bq->bhn", each, raters.weight_BQ)
        visual = view.on_visual(mean)
        total = torch.where(view.valid_BV[:, None], visual, 0).sum(-1)
        heads = top_indices(total, torch.ones_like(total, dtype=torch.bool), self.heads)
        # Autocast makes the weighted mean of another type.
        return visual.gather(1, heads[:, :, None].expand(-1, -1, visual.shape[2])).mean(1).float()

    def merge(self, view: View, score: torch.Tensor, kept: torch.Tensor, count: int) -> Mixture:
        import torch

        from baselines.clustering import dpc_knn
        from hidrop.topk import top_indices

        pruned = view.valid_BV & ~kept
        candidates = torch.maximum(3 * pruned.sum(1) // 10 + 1, view.cut.merge_B)
        host = zip(view.cut.there, view.cut.rows, strict=True)
        slots = max(max(recycled(there - row.keep)[0], row.merge) for there, row in host)
        chosen = top_indices(score, pruned, slots)
        hidden = view.visual_BVD.gather(1, chosen[:, :, None].expand(-1, -1, view.hidden_BND.shape[2]))
        member_BCM = dpc_knn(hidden, candidates, view.cut.merge_B, count)
        return Mixture(member_BCM.transpose(1, 2), member_BCM.sum(1) + 1e-6, chosen)

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> SparseVLM:
        """Scale a list (`keep`, that of `label`, or the nearest published one) to a true average."""
        base: SparseVLM = cls(**params)
        if base.adaptive:
            raise BudgetError("version 1.0 counts by the question; give a label, or scale and bias, and no budget")
        if not params.get("keep") and not params.get("label"):
            labels = PUBLISHED[base.version]
            base = min((replace(base, label=n) for n in labels), key=lambda m: abs(m._average(geometry) - average))
        counts, whole = base._counts(geometry), geometry.visual_tokens

        def scaled(factor: float) -> SparseVLM:
            return replace(base, label=None, keep=tuple(min(whole, max(1, round(n * factor))) for n in counts))

        low, high = 0.0, float(whole)
        least, most = scaled(low)._average(geometry), scaled(high)._average(geometry)
        if not least <= average <= most:
            layers = base.layers or scaled_layers(geometry.layers, base.version)
            hint = earlier_layers(average, geometry, layers)
            raise BudgetError(f"it reaches {least:.2f}..{most:.2f}{hint}", (least, most))
        for _ in range(40):
            middle = math.sqrt((low + 1e-6) * high)
            low, high = (middle, high) if scaled(middle)._average(geometry) < average else (low, middle)
        return min(scaled(low), scaled(high), key=lambda m: abs(m._average(geometry) - average))

    def _average(self, geometry: Geometry) -> float:
        return self.plan(geometry).average_tokens


def recycled(pruned: int) -> tuple[int, int]:
    """How many of the pruned tokens are candidates for recycling (30 %), and into how many clusters (a tenth)."""
    candidates = 3 * pruned // 10 + 1
    return candidates, candidates // 10 + 1


def scaled_layers(depth: int, version: str = "1.5") -> tuple[int, ...]:
    """The published cut layers scaled to another depth, all different."""
    layers = [0]
    for layer in PUBLISHED_LAYERS[version]:
        layers.append(max(layers[-1] + 1, round(layer * depth / PUBLISHED_DEPTH)))
    return tuple(b for _, b in pairwise(layers))
