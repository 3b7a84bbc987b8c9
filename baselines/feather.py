"""FEATHER (ICCV 2025, arXiv 2412.13180): FastV's score without rope, in two cuts, with an even grid in the first.

Variant: the released code's. The score is the last token's attention in the layer that has just run: queries and keys
not rotated, softmax over the visual keys, mean over heads. The first cut keeps the best int(0.3 N) of N tokens and each
third one of each third row, the second the best int(0.09 N). Unlike the released code: layers scale with the depth,
scores are float32, ties go to the earlier token. `union: released` keeps just these (adaptive). `union: filled`, the
default, takes the next best as well, up to the most that there can be: plans and budgets need one number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from baselines.even_grid import count_of, grid_of, with_earlier_cuts
from baselines.pdrop import quarters, shares_of
from hidrop.budget import root
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
    paper: ClassVar[str] = "Feather the Throttle (FEATHER), ICCV 2025, https://arxiv.org/abs/2412.13180"
    code: ClassVar[str] = "https://github.com/markendo/FEATHER (c2a09b2)"
    published: ClassVar[Mapping[str, Published]] = {
        "released": Published({"layers": (8, 16), "ratios": (0.3, 0.09), "stride": 3, "union": "released"})
    }

    adaptive = property(lambda self: self.union == "released")

    def schedule(self, geometry: Geometry) -> Schedule:
        whole, shares, layers = geometry.visual_tokens, shares_of(self, 2), self.layers or quarters(geometry)[:2]
        if min(shares) < 0 or max(shares) > 1 or min(self.stride, layers[0]) < 1:
            raise ValueError(f"ratios are shares between 0 and 1, stride and layers at least 1: {self}")
        most = min(whole, count_of(shares[0], whole) + grid_of(whole, self.stride))
        # Images of any shape may have a larger grid than one of as many tokens that is a square.
        first = whole if self.adaptive and geometry.dynamic else most
        return Schedule(cuts=(Cut(layers[0], first), Cut(layers[1], count_of(shares[1], whole))))

    def prepare(self, prompt: Prompt) -> MediaTable:
        return prompt.media

    def score(self, view: View) -> torch.Tensor:
        """The attention; at the first cut the places in its order, after which the grid comes first."""
        from baselines.even_grid import grid_first, unrotated_attention

        attention = unrotated_attention(view)
        return attention if view.cut.place else grid_first(attention, view, self.stride)

    def choose(self, view: View) -> tuple[torch.Tensor, tuple[Cut, ...]]:
        """The released union: its size is read on the host."""
        from baselines.even_grid import union_of, unrotated_attention

        attention = unrotated_attention(view)
        if view.cut.place:
            return attention, view.cut.rows
        union = union_of(attention, view, self.stride, [count_of(shares_of(self, 2)[0], n) for n in view.cut.there])
        return union.float(), tuple(Cut(view.layer, count) for count in union.sum(1).tolist())

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        """Solve for `ratio` at the given `layers` and `stride`."""
        base = cls(**params)
        if base.adaptive or "ratio" in params or "ratios" in params:
            raise BudgetError("a budget decides ratio, and union: filled counts it; give layers and stride only")
        first, second, _ = quarters(geometry)
        base = replace(base, layers=base.layers or (first, second))

        def reached(ratio: float) -> float:
            return replace(base, ratio=ratio).plan(geometry).average_tokens

        if not reached(0.0) < average <= reached(1.0):
            told = f"with cuts after layers {base.layers} it reaches {reached(0.0):.2f}..{reached(1.0):.2f}"
            told += with_earlier_cuts(average, geometry, base.layers, base.stride)
            raise BudgetError(told, (reached(0.0), reached(1.0)))
        return replace(base, ratio=round(root(reached, average, 0.0, 1.0), 4))
