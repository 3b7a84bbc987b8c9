"""Training: recipes, data and the loop."""

from __future__ import annotations

from pathlib import Path


def train(recipe: str, *, out: Path | None = None, resume: bool = False) -> Path:
    """Train what `recipe` says (see trainer.train). Imports torch only when called."""
    from hidrop.training.trainer import train as run

    return run(recipe, out=out, resume=resume)
