"""FEATHER (ICCV 2025, arXiv 2412.13180): FastV's score without rope, in two cuts, with an even grid in the first.

Variant: the released code's. The score is the last prompt token's attention in the layer that has just run: queries and
keys not rotated, softmax over the visual keys alone, mean over heads. Of an image's N tokens the first cut keeps the
best int(0.3 N) and every third token of every third row; the second keeps the best int(0.09 N) of those left.

The size of this union depends on the sample. `union: released` keeps just it (adaptive). `union: filled`, the default,
takes the next best tokens as well, up to the most that a union can have: plans, budgets and graphs need one number.
Unlike the released code: layers scale with the depth, scores are float32, ties go to the earlier token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hidrop.budget import earlier_layers, early_layer, root
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import BudgetError, Published, Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.media_table import MediaTable
    from hidrop.runtime.scoring import Prompt, View


@dataclass(frozen=True)
class Feather(Reducer):
    """Keep `ratios[0]` of the visual tokens and a grid after `layers[0]`, `ratios[1]` of them after `layers[1]`.

    `layers`: by default a quarter and half of the depth. `ratio`: shares ratio and ratio^2 instead of `ratios`.
    """

    layers: tuple[int, int] | None = None
    ratios: tuple[float, float] = (0.3, 0.09)
    ratio: float | None = None
    stride: int = 3
    union: Literal["filled", "released"] = "filled"

    name: ClassVar[str] = "feather"
    gridded: ClassVar[bool] = True
    paper: ClassVar[str] = (
        "Feather the Throttle: Revisiting Visual Token Pruning for Vision-Language Model Acceleration, ICCV 2025, "
        "https://arxiv.org/abs/2412.13180"
    )
    code: ClassVar[str] = "https://github.com/markendo/FEATHER (c2a09b2)"
    published: ClassVar[Mapping[str, Published]] = {
        "released": Published({"layers": (8, 16), "ratios": (0.3, 0.09), "stride": 3, "union": "released"})
    }

    @property
    def adaptive(self) -> bool:
        return self.union == "released"

    @property
    def _shares(self) -> tuple[float, float]:
        return self.ratios if self.ratio is None else (self.ratio, self.ratio**2)

    def _layers(self, depth: int) -> tuple[int, int]:
        return self.layers or (depth // 4, depth // 2)

    def schedule(self, geometry: Geometry) -> Schedule:
        whole, shares, layers = geometry.visual_tokens, self._shares, self._layers(geometry.layers)
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"ratios: {list(shares)} must be shares between 0 and 1 of the image's visual tokens")
        if self.stride < 1 or layers[0] < 1:
            raise ValueError(f"stride: {self.stride} and the first of layers: {layers[0]} must be at least 1")
        # Images of any shape may have a larger grid than one of as many tokens that is a square.
        unbounded = self.adaptive and geometry.dynamic
        most = whole if unbounded else min(whole, count_of(shares[0], whole) + grid_of(whole, self.stride))
        return Schedule(cuts=(Cut(layers[0], most), Cut(layers[1], count_of(shares[1], whole))))

    def prepare(self, prompt: Prompt) -> MediaTable:
        return prompt.media

    def score(self, view: View) -> torch.Tensor:
        """The attention; at the first cut the places in its order, after which the grid comes first."""
        from hidrop.topk import top_indices

        attention = self._attention(view)
        if view.layer != self._layers(len(view.layers))[0]:
            return attention
        slots = attention.shape[1]
        place = top_indices(attention, view.valid_BV, slots).argsort(1)
        return (slots - place + slots * self._grid(view)).float()

    def choose(self, view: View) -> tuple[torch.Tensor, tuple[Cut, ...]]:
        """The released union: its size is read on the host."""
        from hidrop.topk import keep_top, marked

        attention = self._attention(view)
        if view.layer != self._layers(len(view.layers))[0]:
            return attention, view.cut.rows
        best = [count_of(self._shares[0], there) for there in view.cut.there]
        index = keep_top(attention, view.valid_BV, view.cut.keep_B.new_tensor(best), max(best))
        union = marked(index, attention.shape[1]) | self._grid(view)
        return union.float(), tuple(Cut(view.layer, count) for count in union.sum(1).tolist())

    def _attention(self, view: View) -> torch.Tensor:
        """FastV's score (B, V), of states that rope has not turned, where text keys are hidden as fillers are."""
        import torch

        cos, sin = view.rope(view.layer)
        unturned = torch.ones_like(cos), torch.zeros_like(sin)
        visual_BV = view.order_BN.gather(1, view.visual_BV)
        seen_BN = torch.full_like(view.order_BN, -1).scatter(1, view.visual_BV, visual_BV)
        return replace(view, rope=lambda _: unturned, keys=None, order_BN=seen_BN).attention_to_visual(of="this")

    def _grid(self, view: View) -> torch.Tensor:
        """Which visual tokens are in every `stride`-th row and column of their grid, (B, V). Before the first cut."""
        inside, columns = view.memory.frame_inside_BV, view.memory.columns_BV
        even = (inside // columns % self.stride == 0) & (inside % columns % self.stride == 0)
        return view.valid_BV & even

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        """Solve for `ratio` at the given `layers` and `stride`."""
        base = cls(**params)
        if base.adaptive:
            raise BudgetError("the released union counts by the sample; leave union out, or give ratios and no budget")
        if "ratio" in params or "ratios" in params:
            raise ValueError("ratio: follows from the budget; give layers and stride only")
        whole, depth = geometry.visual_tokens, geometry.layers
        (first, second), grid = base._layers(depth), grid_of(whole, base.stride)

        def reached(ratio: float) -> float:
            both = (second - first) * min(1.0, ratio + grid / whole) + (depth - second) * ratio**2
            return whole * (first + both) / depth

        if not reached(0) < average <= reached(1):
            early = early_layer(average, geometry)
            room = whole * early + (depth // 4 - early) * grid < depth * average
            hint = earlier_layers(average, geometry, (first, depth // 4)) if room else ""
            raise BudgetError(
                f"with cuts after layers {[first, second]} it reaches {reached(0):.2f}..{reached(1):.2f}{hint}",
                (reached(0), reached(1)),
            )
        return cls(**{**params, "layers": (first, second), "ratio": round(root(reached, average, 0.0, 1.0), 4)})


def count_of(share: float, whole: int) -> int:
    """The share of a number, rounded down; 1e-6 because 100 * 0.29 is 28.999..."""
    return math.floor(share * whole + 1e-6)


def grid_of(whole: int, stride: int) -> int:
    """Tokens in every `stride`-th row and column of a square of tokens; of another number about as many."""
    side = math.isqrt(whole)
    return math.ceil(side / stride) ** 2 if side * side == whole else math.ceil(whole / stride**2)
