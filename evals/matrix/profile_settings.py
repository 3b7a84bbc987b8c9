"""The settings of a profile: the `profile` block of a matrix."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from evals.profiling.point import Point
from hidrop.strict_yaml import StrictModel, Whole

Count = Annotated[Whole, Field(ge=1)]


class ProfileSettings(StrictModel):
    """How often, at which batch sizes and prompt lengths a method is timed."""

    repeats: Count = 10
    warmup: Annotated[Whole, Field(ge=0)] = 2
    batch: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    # Tokens around the image, at least two on each side: text-guided methods rate several tokens after the image.
    text_tokens: Annotated[Whole, Field(ge=4)] = 60
    new_tokens: Count = 8
    seed: Whole = 0

    @property
    def points(self) -> tuple[Point, ...]:
        """What is timed: one point for each batch size."""
        shared = {name: value for name, value in self if name != "batch"}
        return tuple(Point(batch=batch, **shared) for batch in self.batch)

    @field_validator("batch", mode="before")
    @classmethod
    def _one_batch_size(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value
