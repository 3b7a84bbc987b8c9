"""Training: recipes, data and the loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Checked:
    """What is wrong with a recipe on this machine, and otherwise what it does."""

    name: str
    problems: list[str]
    summary: str


def train(recipe: str, *, out: Path | None = None, resume: bool = False, work: Path | None = None) -> Path:
    """Train what the recipe (a bundled name, or a file) says: see trainer.train, and llava.run.train for real data.

    Raises UserError for a bad recipe, and like these.
    """
    from hidrop.training.llava.recipe import LlavaRecipe
    from hidrop.training.recipe import load_recipe

    plan = load_recipe(recipe)
    if isinstance(plan, LlavaRecipe):
        from hidrop.training.llava import run

        return run.train(plan, out=out, resume=resume, work=work)
    from hidrop.training import trainer

    return trainer.train(plan, out=out, resume=resume, work=work)


def check(recipe: str) -> Checked:
    """All that would keep a recipe from being trained here. Raises UserError for one that is none."""
    from hidrop.training.llava.recipe import LlavaRecipe
    from hidrop.training.recipe import load_recipe

    plan = load_recipe(recipe)
    if isinstance(plan, LlavaRecipe):
        from hidrop.training.llava import check as llava

        return Checked(plan.name, llava.problems(plan), llava.summary(plan))
    steps = sum(lesson.steps for lesson in plan.lessons)
    return Checked(plan.name, [], f"{len(plan.lessons)} lessons, {steps} steps, on data that it draws itself")
