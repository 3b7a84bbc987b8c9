"""Training recipes by name: those of the embedded models, and those of LLaVA's two stages on real data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hidrop import strict_yaml
from hidrop.errors import UserError, did_you_mean
from hidrop.regular_files import Unreadable, local_path, read_bytes

if TYPE_CHECKING:
    from hidrop.mini.training.recipe import Recipe
    from hidrop.training.recipe import LlavaRecipe

FOLDERS = tuple(Path(__file__).parent / place / "recipes" for place in ("training", "mini/training"))


@dataclass(frozen=True)
class Checked:
    """What is wrong with a recipe on this machine, what it would go on with, and what it does."""

    name: str
    problems: list[str]
    summary: str
    notes: list[str] = field(default_factory=list)


def bundled() -> dict[str, Path]:
    """The file of each recipe that ships with hidrop, by name."""
    return {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.yaml"))}


def is_recipe(name: str) -> bool:
    """Whether a user means a training recipe: a bundled one, or a file that says which kind of training it is."""
    path = local_path(name, f"'{name}'")
    if path.exists():
        try:
            lines = read_bytes(path, strict_yaml.MOST_BYTES).decode(errors="replace").splitlines()
        except Unreadable:  # whoever reads it as a matrix reports it
            return False
        return any(line.startswith(("kind:", "lessons:")) for line in lines)
    return name.removesuffix(".yaml") in bundled()


def file_of(name: str) -> Path:
    """The file of a recipe, or that of the bundled one of this name. Raises UserError if there is none."""
    path = local_path(name, f"recipe '{name}'")
    if not path.exists():
        known = bundled()
        found = known.get(name.removesuffix(".yaml"))
        if found is None:
            hint = did_you_mean(name, known)
            raise UserError(f"recipe '{name}': no such file and no bundled recipe.{hint} Bundled: {', '.join(known)}")
        path = found
    return path


def load_recipe(name: str) -> Recipe | LlavaRecipe:
    """The recipe in file `name`, or the bundled one of that name. Raises UserError naming the field or the file."""
    from hidrop.mini.training.recipe import Recipe
    from hidrop.training.recipe import LlavaRecipe

    path = file_of(name)
    data = strict_yaml.read(path, path.name)
    if data.get("kind") == "llava":
        return strict_yaml.checked(LlavaRecipe, data, path.name)
    return strict_yaml.checked(Recipe, data, path.name)


def train(recipe: str, *, out: Path | None = None, resume: bool = False, work: Path | None = None) -> Path:
    """Train what the recipe (a bundled name, or a file) says; returns the checkpoint's folder.

    See `hidrop.training.run.train` for real data and `hidrop.mini.training.loop.train` for the embedded models, with
    what they raise. Raises UserError for a bad recipe.
    """
    from hidrop.training.recipe import LlavaRecipe

    plan = load_recipe(recipe)
    if isinstance(plan, LlavaRecipe):
        from hidrop.training import run

        return run.train(plan, out=out, resume=resume, work=work)
    from hidrop.mini.training import loop

    return loop.train(plan, out=out, resume=resume, work=work)


def check(recipe: str, *, out: Path | None = None, work: Path | None = None) -> Checked:
    """All that keeps `train` with these arguments from ending in a checkpoint on this machine.

    Raises UserError for a file that is not a recipe.
    """
    from hidrop.training.recipe import LlavaRecipe

    plan = load_recipe(recipe)
    if isinstance(plan, LlavaRecipe):
        from hidrop.training import validate

        found = validate.findings(plan, out=out, work=work)
        return Checked(plan.name, found.problems, validate.summary(plan), found.notes)
    from hidrop.mini.training import loop

    steps = sum(lesson.steps for lesson in plan.lessons)
    text = f"{len(plan.lessons)} lessons, {steps} steps, on data that it draws itself"
    problems, notes = loop.findings(plan, out=out, work=work)
    return Checked(plan.name, problems, text, notes)
