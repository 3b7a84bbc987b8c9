"""PyramidDrop / PDrop (CVPR 2025, arXiv 2410.17247): drop a share of the visual tokens after each quarter of the depth.

Variant: the released code's. The score is the last token's attention (in training the mean over every token before an
answer) with the *next* layer's norm and projections, softmax over all keys, mean over heads, detached. The paper's text
says the last layer of the stage instead. Positions are renumbered after each cut, and while decoding each layer
continues from its own length (`positions: persistent` keeps them). Ratios are shares of the original count, rounded
down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hidrop.budget import earlier_layers, root
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import BudgetError, Positions, Published, Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.scoring import View


@dataclass(frozen=True)
class PDrop(Reducer):
    """Keep `ratios[i]` of the image's visual tokens after `layers[i]`.

    `layers`: by default a quarter, half and three quarters of the depth. `ratio`: shares ratio, ratio^2, ... instead of
    `ratios`. `positions`: by default compacted, as in the released code; persistent where a position is several numbers
    (M-RoPE), as in the published ports.
    """

    layers: tuple[int, ...] | None = None
    ratios: tuple[float, ...] = (0.5, 0.25, 0.125)
    ratio: float | None = None
    positions: Positions | None = None

    name: ClassVar[str] = "pdrop"
    paper: ClassVar[str] = (
        "PyramidDrop (Conical Visual Concentration in its camera-ready version), CVPR 2025, "
        "https://arxiv.org/abs/2410.17247"
    )
    code: ClassVar[str] = "https://github.com/Cooperx521/PyramidDrop"
    # The layers are those of 32. The released scripts give the same to the 13B model, which has 40.
    published: ClassVar[Mapping[str, Published]] = {
        "default": Published(
            {"layers": (8, 16, 24), "ratios": (0.5, 0.25, 0.125)}, ("llava-1.5-7b", "llava-1.5-13b", "llava-next-7b")
        ),
        "lambda-0.4": Published({"layers": (8, 16, 24), "ratio": 0.4}),
        "lambda-0.6": Published({"layers": (8, 16, 24), "ratio": 0.6}),
    }

    @property
    def released_positions(self) -> Positions:
        return "compacted"

    def schedule(self, geometry: Geometry) -> Schedule:
        layers = self.layers or quarters(geometry)
        ratios = shares_of(self, len(layers))
        if len(layers) != len(ratios):
            raise ValueError(f"ratios: {len(ratios)} ratios for {len(layers)} layers {list(layers)}")
        if not all(0 <= r <= 1 for r in ratios):
            raise ValueError(f"ratios: {list(ratios)} must be shares between 0 and 1 of the image's visual tokens")
        # 100 * 0.29 is 28.999...: without 1e-6, rounding down would lose a token to binary fractions.
        counts = (math.floor(geometry.visual_tokens * r + 1e-6) for r in ratios)
        return Schedule(cuts=tuple(Cut(layer, count) for layer, count in zip(layers, counts, strict=True)))

    def score(self, view: View) -> torch.Tensor:
        return view.attention_to_visual(of="next")

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        """Solve for `ratio` at the given `layers`, as the authors advise in issues 10 and 29 of their repository."""
        if "ratio" in params or "ratios" in params:
            raise ValueError("ratio: follows from the budget; give layers only")
        layers = tuple(params.get("layers") or quarters(geometry))
        whole, depth = geometry.visual_tokens, geometry.layers
        lengths = [b - a for a, b in zip((0, *layers), (*layers, depth), strict=True)]

        def reached(ratio: float) -> float:
            return whole * sum(n * ratio**i for i, n in enumerate(lengths)) / depth

        if not reached(0) < average <= reached(1):
            hint = earlier_layers(average, geometry, (layers[0], depth // 4, depth // 2))
            raise BudgetError(
                f"with cuts after layers {list(layers)} it reaches {reached(0):.2f}..{reached(1):.2f}{hint}",
                (reached(0), reached(1)),
            )
        return cls(**{**params, "layers": layers, "ratio": round(root(reached, average, 0.0, 1.0), 4)})


def shares_of(method: Any, count: int) -> tuple[float, ...]:
    """A method's `ratios`, or `count` powers of its `ratio`. Raises ValueError if it has both."""
    if method.ratio is None:
        return tuple(method.ratios)
    if method.ratios != type(method).ratios:
        raise ValueError("ratio: it stands for ratios; give one of the two")
    return tuple(method.ratio**i for i in range(1, count + 1))


def quarters(geometry: Geometry) -> tuple[int, ...]:
    """The published 8, 16, 24 of 32 layers, at any depth."""
    return tuple(geometry.layers * i // 4 for i in (1, 2, 3))
