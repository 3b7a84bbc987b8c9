"""A recipe: what is trained, with which reduction method, in which lessons. YAML files in `recipes/`, found by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hidrop.errors import UserError, did_you_mean
from hidrop.reducer import build_entry
from hidrop.training import RECIPES
from hidrop.training.data import Kind
from hidrop.training.llava.recipe import LlavaRecipe
from hidrop.training.mini_model import GEOMETRY


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stage(_Strict):
    """`steps` updates of `batch` samples at peak learning rate `lr` (the schedule is in optim.py)."""

    steps: int = Field(gt=0, multiple_of=4)  # batches are drawn in groups of four, see data.py
    batch: int = Field(gt=0)
    lr: float = Field(gt=0)


class Lesson(Stage):
    """A stage on conversations, with the method active; `data` says of which kind (data.py)."""

    data: Kind


class Recipe(_Strict):
    """Training of an embedded model: its foundations (foundation.py), then the lessons in their order.

    With `start`, an embedded model or a folder with one, it goes on from that model instead of new foundations.
    LLaVA's two stages (captions, instructions) come first, drills of single skills behind them.
    """

    name: str
    seed: int = 0
    method: dict[str, Any] = {"name": "vanilla"}
    start: str | None = None
    tower: Stage | None = None
    align: Stage | None = None
    lessons: tuple[Lesson, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        build_entry(self.method).plan(GEOMETRY)
        if [self.start is None] * 2 != [self.tower is not None, self.align is not None]:
            raise ValueError("a recipe has tower and align, or it has start")
        return self


def load_recipe(name: str) -> Recipe | LlavaRecipe:
    """The recipe in file `name`, or the bundled one of that name. Raises UserError naming the field or the file."""
    path = Path(name)
    if not path.is_file():
        path = RECIPES / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in RECIPES.glob("*.yaml"))
        hint = did_you_mean(name, known)
        raise UserError(f"recipe '{name}': no such file and no bundled recipe.{hint} Bundled: {', '.join(known)}")
    try:
        data = yaml.safe_load(path.read_text())
        real = isinstance(data, dict) and data.get("kind") == "llava"
        return LlavaRecipe.model_validate(data) if real else Recipe.model_validate(data)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    except ValidationError as error:
        problems = [f"{path.name}: {'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']}" for e in error.errors()]
        raise UserError("\n".join(problems)) from None
