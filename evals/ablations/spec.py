"""The file of an ablation study: variants to train with several seeds, and claims about them.

    train:    {start: ..., lessons: [...]}             # training of all variants, as in a recipe
    method:   {name: hidrop, inject: 4, ...}           # the method that variants change
    seeds:    [11, 12, 13]                             # every variant is trained with each
    starts:   {window: {start: ..., method: ..., lessons: ...}}   # trained once, for variants to start from
    variants: {base: {}, ste: {change: {topk: ste}}, pdrop: {method: {name: pdrop}, start: mini:vanilla}}
    untrained: {fastv: {name: fastv, layer: 1, budget: "11%"}}    # rows of the reference, as in a matrix
    claims:   [{say: ..., better: ste, worse: base, paper: [99.7, 97.7]}]

A seed draws the same training samples for all variants, so variants are compared seed by seed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from evals.matrix.schema import AUTO, BatchSize, MethodEntry, Name, TaskEntry, named
from hidrop import strict_yaml
from hidrop.errors import UserError
from hidrop.method_source import method_digest
from hidrop.methods import build_entry
from hidrop.mini.training.recipe import Lesson, Recipe
from hidrop.regular_files import local_path
from hidrop.strict_yaml import StrictModel, Whole

BUNDLED = Path(__file__).parent
HASHED = 8  # digits of a recipe's hash in its folder's name


class Training(StrictModel):
    """A recipe without its method: its start (a model, or one of `starts`) and its lessons."""

    start: str
    lessons: tuple[Lesson, ...] = Field(min_length=1)


class Start(Training):
    """A model that variants start from, trained once with `method`."""

    method: dict[str, Any]
    seed: Whole = 0


class StudyVariant(StrictModel):
    """Differences from the study's method and training: some fields (`change`), or a whole `method`."""

    change: dict[str, Any] = Field(default_factory=dict)
    method: dict[str, Any] | None = None
    start: str | None = None
    lessons: tuple[Lesson, ...] | None = None


class Claim(StrictModel):
    """The claim that `better` scores higher than `worse`. `paper`: the two published numbers, if there are any."""

    say: str
    better: str
    worse: str
    paper: tuple[float, float] | None = None


class Evaluation(StrictModel):
    """How the trained models are scored. Each task's value is divided by the reference's value."""

    reference: str
    tasks: Annotated[dict[str, TaskEntry], Field(min_length=1)]
    limit: Annotated[Whole, Field(ge=1)] | None = None
    batch_size: BatchSize = AUTO


class Study(StrictModel):
    name: Name
    train: Training
    method: dict[str, Any]
    seeds: Annotated[tuple[Whole, ...], Field(min_length=1)]
    evaluation: Evaluation
    starts: dict[Name, Start] = Field(default_factory=dict)
    variants: Annotated[dict[Name, StudyVariant], Field(min_length=1)]
    untrained: dict[Name, MethodEntry] = Field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()  # lines below the tables

    @model_validator(mode="after")
    def _fits(self) -> Self:
        wrong = [
            f"{place}.start: '{start}' is one of this study's starts, which cannot start from each other. Give a model"
            for place, start in ((f"starts.{name}", spec.start) for name, spec in self.starts.items())
            if start in self.starts
        ]
        known = [*self.variants, *self.untrained]
        for kind, names in (("starts", self.starts), ("untrained", self.untrained)):
            wrong += [f"{kind}.{name}: also the name of a variant" for name in names if name in self.variants]
        for place, claim in enumerate(self.claims):
            for side in ("better", "worse"):
                if (name := getattr(claim, side)) not in known:
                    wrong.append(
                        f"claims[{place}].{side}: no variant or row '{name}'.{strict_yaml.suggestion(name, known)}"
                    )
        for name, variant in self.variants.items():
            if variant.method is not None and variant.change:
                wrong.append(
                    f"variants.{name}: give either a `method` of its own or a `change` of the study's, not both"
                )
        for name in () if wrong else [*self.starts, *self.variants]:
            kind = "starts" if name in self.starts else "variants"
            try:
                self.recipe_of(name)
            except ValueError as error:
                message = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
                wrong.append(f"{kind}.{name}: {message.removeprefix('Value error, ')}")
        if wrong:
            raise ValueError("\n".join(wrong))
        return self

    def recipe_of(self, name: str, seed: int | None = None) -> Recipe:
        """The recipe of a start, or of a variant with one of the seeds (default: the first)."""
        if name in self.starts:
            spec = self.starts[name]
            return Recipe(name=name, seed=spec.seed, method=spec.method, start=spec.start, lessons=spec.lessons)
        variant = self.variants[name]
        return Recipe(
            name=name,
            seed=self.seeds[0] if seed is None else seed,
            method=variant.method or {**self.method, **variant.change},
            start=variant.start or self.train.start,
            lessons=variant.lessons or self.train.lessons,
        )

    def folder_of(self, name: str, seed: int | None = None) -> str:
        """The name of a trained model's folder, with a hash of recipe, start and the method's source.

        So a changed study, or one of an edited method, trains its models again.
        """
        recipe = self.recipe_of(name, seed)
        start = self.folder_of(recipe.start) if recipe.start in self.starts else recipe.start
        source = method_digest(build_entry(recipe.method))
        made_by = recipe.model_dump(mode="json", exclude={"name"}), start, source
        digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
        return f"{name}-s{recipe.seed}-{digest[:HASHED]}"


def load_study(name: str | Path) -> Study:
    """Read and check a study: a file, or a bundled study by name. Raises UserError with every mistake."""
    path = local_path(str(name), f"study '{name}'")
    if not path.exists():
        path = BUNDLED / f"{path.name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        bundled = ", ".join(sorted(study.stem for study in BUNDLED.glob("*.yaml")))
        raise UserError(f"{name}: no such file, and not a bundled study ({bundled})")
    data = strict_yaml.read(path, path.name)
    data.setdefault("name", path.stem)
    if isinstance(data.get("untrained"), dict):
        data["untrained"] = {key: named(key, spec) for key, spec in data["untrained"].items()}
    return strict_yaml.checked(Study, data, path.name)
