"""What the commands read from their arguments alike."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from hidrop.errors import UserError

if TYPE_CHECKING:
    from evals.matrix.schema import Cell, Matrix
    from hidrop.geometry import Geometry


def positive(text: str) -> int:
    return natural(text, 1)


def natural(text: str, least: int = 0) -> int:
    number = int(text)
    if number < least:
        raise argparse.ArgumentTypeError(f"must be {least} or more")
    return number


def chosen(arguments: argparse.Namespace) -> tuple[Matrix, list[Cell]]:
    """The matrix that a command names, and those of its cells that it asks for."""
    from evals.matrix.schema import load_matrix

    matrix = load_matrix(arguments.matrix, limit=getattr(arguments, "limit", None))
    return matrix, matrix.cells(only=arguments.only)


def device_of(arguments: argparse.Namespace, matrix: Matrix) -> str:
    from evals.matrix.validate import pick_device

    return pick_device(arguments.device or matrix.device)


def out_of(arguments: argparse.Namespace, matrix: Matrix) -> Path:
    return arguments.out or Path("results") / matrix.name


def budget_of(text: str, geometry: Geometry) -> float:
    """The value of --budget as a number of visual tokens. Raises UserError."""
    from hidrop.budget import budget_tokens, parse_budget

    try:
        return budget_tokens(parse_budget(text), geometry.visual_tokens)
    except ValueError as error:
        raise UserError(f"--budget: {error}") from None


def stream_of(arguments: argparse.Namespace) -> TextIO:
    """Where words go: with --json, stdout is for the document alone."""
    return sys.stderr if arguments.json else sys.stdout


def print_json(arguments: argparse.Namespace, document: Mapping[str, Any]) -> None:
    if arguments.json:
        print(json.dumps(document, ensure_ascii=False), flush=True)
