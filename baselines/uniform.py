"""Visual tokens from an even grid over the image, whatever it shows: a null baseline without randomness.

Each image is divided into `keep` cells, and the token in the middle of each cell stays. Positions are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hidrop.budget import single_cut
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.scoring import Prompt, View


@dataclass(frozen=True)
class Uniform(Reducer):
    """Keep `keep` evenly spread visual tokens after layer `layer` (0: before the decoder)."""

    keep: int
    layer: int = 0

    name: ClassVar[str] = "uniform"
    null_baseline: ClassVar[bool] = True
    counts: ClassVar[tuple[str, ...]] = ("keep",)
    gridded: ClassVar[bool] = True

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(self.layer, self.keep),))

    def prepare(self, prompt: Prompt) -> Prompt:
        return prompt  # says which image each token belongs to

    def score(self, view: View) -> torch.Tensor:
        from baselines.grid import cells

        _, centre = cells(view.memory, view.cut.keep_B)
        return centre.float()

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        layer = params.setdefault("layer", 0)
        return cls(**{**params, "keep": single_cut(average, geometry, layer)})
