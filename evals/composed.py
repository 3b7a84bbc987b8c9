"""Running a matrix that a command has put together, as `run.py run` would run its file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml


def run_content(
    content: dict[str, Any], out: Path, *, json: bool, device: str | None = None, quiet: bool = False
) -> tuple[dict[str, Any], list[Path]] | None:
    """Run `content` into `out`, where it then stands as matrix.yaml. Returns what `cli.run_matrix` does."""
    from evals.cli import run_matrix

    out.mkdir(parents=True, exist_ok=True)
    path = out / "matrix.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    given = {"matrix": str(path), "out": out, "device": device, "json": json, "quiet": quiet}
    left_out = {"only": None, "limit": None, "workers": None, "force": False, "retry": False}
    return run_matrix(argparse.Namespace(**given, **left_out))
