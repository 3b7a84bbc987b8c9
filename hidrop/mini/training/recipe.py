"""A recipe: which model is trained, with which method, in which lessons. YAML files in `recipes/`, found by name."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from hidrop.methods import build_entry
from hidrop.mini.training.model import GEOMETRY
from hidrop.strict_yaml import FileName, StrictModel, Whole

# What a lesson shows; see lessons.py.
Kind = Literal["captions", "instructions", "signs", "rows", "letters", "drills", "choices"]


class Stage(StrictModel):
    """`steps` updates of `batch` samples at peak learning rate `lr` (the schedule is in optimizer.py)."""

    steps: Whole = Field(gt=0, multiple_of=4)  # batches are drawn in groups of four, see lessons.py
    batch: Whole = Field(gt=0)
    lr: float = Field(gt=0)


class Lesson(Stage):
    """A stage on conversations, with the method active. `data` is their kind (lessons.py)."""

    data: Kind


class Recipe(StrictModel):
    """Training of an embedded model: its foundations (foundations.py), then the lessons in their order.

    With `start`, an embedded model or a folder with one, training starts from that model instead of new foundations.
    `class_token` (class_token.py) follows `tower`; without it, the class token's attention has no meaning.
    LLaVA's two stages (captions, instructions) come first, then drills of single skills.
    """

    name: FileName
    seed: Whole = 0
    method: dict[str, Any] = Field(default_factory=lambda: {"name": "vanilla"})
    start: str | None = None
    tower: Stage | None = None
    class_token: Stage | None = None
    align: Stage | None = None
    lessons: tuple[Lesson, ...] = Field(min_length=1)

    @property
    def sources(self) -> list[str]:
        """The checkpoints that training starts from."""
        return [self.start] if self.start else []

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        build_entry(self.method, GEOMETRY).plan(GEOMETRY)
        if [self.start is None] * 2 != [self.tower is not None, self.align is not None]:
            raise ValueError("a recipe has tower and align, or it has start")
        if self.class_token is not None and self.tower is None:
            raise ValueError("class_token: the tower comes from the model in start, with its class token")
        return self
