"""The image left out: the score of a model that does not see it, the floor of every table.

Positions are those of the prompt without an image. The vision tower still runs, as in every method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import BudgetError, Positions, Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.scoring import View


@dataclass(frozen=True)
class TextOnly(Reducer):
    """No visual token enters any layer."""

    positions: Positions | None = None

    name: ClassVar[str] = "text_only"
    null_baseline: ClassVar[bool] = True

    @property
    def released_positions(self) -> Positions:
        return "compacted"

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(0, 0),))

    def score(self, view: View) -> torch.Tensor:
        return view.valid_BV.float()

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        if average:
            raise BudgetError("it has no visual token at all; leave the budget out")
        return cls(**params)
