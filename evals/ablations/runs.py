"""Train the models of a study, and build the matrix that scores them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.ablations.spec import Study
from evals.matrix.method_fields import CHECKPOINT
from evals.store.lock import InUse, locked
from hidrop.mini.training.recipe import Recipe

log = logging.getLogger("hidrop.training")
MODEL = "model"  # folder of the finished checkpoint inside a run's folder
REFERENCE = "reference"


@dataclass(frozen=True)
class TrainingRun:
    """One model to train, in its own folder: a start (seed None) or a variant with one seed."""

    name: str
    seed: int | None
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    @property
    def done(self) -> bool:
        return (self.model / "training.json").is_file()  # the last file that a training writes

    @property
    def title(self) -> str:
        """The model's name in the matrix."""
        return self.name if self.seed is None else f"{self.name}-s{self.seed}"


def runs_of(study: Study, work: Path) -> list[TrainingRun]:
    """All variants with the first seed, then all with the second, ...: an interrupted study only has fewer seeds."""
    return [
        TrainingRun(name, seed, work / study.folder_of(name, seed)) for seed in study.seeds for name in study.variants
    ]


def starts_of(study: Study, work: Path) -> list[TrainingRun]:
    """The models that variants start from."""
    return [TrainingRun(name, None, work / study.folder_of(name)) for name in study.starts]


def missing(study: Study, work: Path) -> Iterator[TrainingRun]:
    """The runs still to train in `work`, each start before the first variant that needs it."""
    starts = {run.name: run for run in starts_of(study, work) if not run.done}
    for run in runs_of(study, work):
        if not run.done:
            if start := starts.pop(study.recipe_of(run.name, run.seed).start or "", None):
                yield start
            yield run


def train_missing(study: Study, work: Path, *, at_most: int | None = None) -> list[TrainingRun]:
    """Train missing models that no other process trains, up to `at_most` of them.

    Returns the models that other processes still train. Interrupted trainings resume. Start the same command twice to
    use two processors.
    """
    from hidrop.mini.training import loop

    others, spent = [], 0
    for run in missing(study, work):
        if at_most is not None and spent >= at_most:
            break
        recipe = ready(study, run, work)
        if recipe is None:
            others.append(run)
            continue
        try:
            with locked(run.folder):
                if not run.done:  # another process can have finished it since
                    log.info("%s", run.title)
                    loop.train(recipe, out=run.model, resume=True, work=run.folder / "progress")
                    spent += 1
        except InUse:
            others.append(run)
    return others


def ready(study: Study, run: TrainingRun, work: Path) -> Recipe | None:
    """The run's recipe with its start as a folder; None if the start is not trained yet."""
    recipe = study.recipe_of(run.name, run.seed)
    if recipe.start not in study.starts:
        return recipe
    start = next(start for start in starts_of(study, work) if start.name == recipe.start)
    return recipe.model_copy(update={"start": str(start.model)}) if start.done else None


def matrix_of(study: Study, work: Path) -> dict[str, Any]:
    """The matrix file that scores a study: one model per finished run, and the reference with the untrained rows."""
    done = [run for run in runs_of(study, work) if run.done]
    rows: dict[str, Any] = {name: spec.model_dump(exclude_none=True) for name, spec in study.untrained.items()}
    runs: list[dict[str, Any]] = [{"models": [REFERENCE], "methods": ["vanilla", *rows]}]
    if done:
        runs.append({"models": [run.title for run in done], "methods": ["trained"]})
    evaluation = study.evaluation
    return {
        "name": study.name,
        "protocol": "lmms-eval",
        "dtype": "float32",
        "batch_size": evaluation.batch_size,
        "limit": evaluation.limit,
        "models": {
            REFERENCE: {"source": evaluation.reference},
            **{run.title: {"source": str(run.model), "reference": REFERENCE} for run in done},
        },
        "methods": {"vanilla": {"name": "vanilla"}, "trained": {"name": CHECKPOINT}, **rows},
        "tasks": {name: spec.model_dump() for name, spec in evaluation.tasks.items()},
        "runs": runs,
        "profile": None,
    }
