"""No reduction: every visual token in every layer. The reference of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from hidrop.geometry import Geometry
from hidrop.plan import Schedule
from hidrop.reducer import BudgetError, Reducer


@dataclass(frozen=True)
class Vanilla(Reducer):
    """The unreduced model, in the same runtime as every method."""

    name: ClassVar[str] = "vanilla"

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule()

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        if average != geometry.visual_tokens:
            raise BudgetError(f"it always has all {geometry.visual_tokens} visual tokens; leave the budget out")
        return cls(**params)
