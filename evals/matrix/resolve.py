"""From a matrix's words to numbers: each model's sizes, each method's fields and its plan. No weights are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.matrix.schema import Cell, Matrix, MethodEntry, ModelEntry, short
from hidrop.errors import UserError
from hidrop.geometry import PRESETS, Geometry
from hidrop.plan import TokenPlan
from hidrop.reducer import Reducer, build

Peek = Callable[[str], tuple[Geometry, Reducer | None]]


@dataclass(frozen=True)
class MatrixRow:
    """One model with one method: a line of the plan, and of the table."""

    model: str
    label: str
    reducer: Reducer
    plan: TokenPlan
    trained: bool  # the checkpoint was trained with this very schedule
    budget: str | None
    group: str  # the label without its seed

    @property
    def method(self) -> str:
        return self.reducer.name

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.label


def peek_files(source: str) -> tuple[Geometry, Reducer | None]:
    """Sizes and trained method of a checkpoint, from its config alone. Raises UserError when it is not there."""
    from hidrop.models import peek

    peeked = peek(source)
    return peeked.geometry, peeked.reducer


def resolve(
    matrix: Matrix, cells: Iterable[Cell], *, peek: Peek = peek_files, trust_presets: bool = False
) -> tuple[dict[tuple[str, str], MatrixRow], list[str]]:
    """The rows of `cells` by (model, label), and every problem met on the way, each with its place in the file.

    With `trust_presets` a model that states its `geometry` is not looked up on disk, so that a plan can be printed
    on a machine without it.
    """
    cells = list(cells)
    problems: list[str] = []
    known: dict[str, tuple[Geometry, Reducer | None]] = {}
    for model, spec in {cell.model: cell.spec for cell in cells}.items():
        sized, wrong = size(model, spec, peek, trust_presets)
        problems += wrong
        if sized:
            known[model] = sized
    rows: dict[tuple[str, str], MatrixRow] = {}
    for cell in {(cell.model, cell.label): cell for cell in cells}.values():
        if cell.model not in known:
            continue
        geometry, trained = known[cell.model]
        try:
            reducer = method_of(cell, geometry, trained)
            plan = reducer.plan(geometry)
        except (ValueError, TypeError) as error:
            problems.append(f"methods.{place(cell)} on {cell.model}: {error}")
            continue
        own = reducer == trained and reducer.name != "vanilla"
        budget = None if cell.budget is None else short(cell.budget)
        rows[cell.model, cell.label] = MatrixRow(cell.model, cell.label, reducer, plan, own, budget, cell.group)
    return rows, [f"{matrix.file}: {line}" for line in dict.fromkeys(problems)]


def size(
    model: str, spec: ModelEntry, peek: Peek, trust_presets: bool
) -> tuple[tuple[Geometry, Reducer | None] | None, list[str]]:
    """Geometry and trained method of one model: what its files say, or what the matrix says where it is enough."""
    stated = build_method(spec.trained_with) if spec.trained_with else None
    preset = PRESETS[spec.geometry] if spec.geometry else None
    if preset and trust_presets:
        return (preset, stated), []
    try:
        found, trained = peek(spec.source)
    except UserError as error:
        return ((preset, stated) if preset else None), [absent(model, spec, error)]
    wrong = []
    if preset and shape(preset) != shape(found):
        wrong.append(f"models.{model}.geometry: '{spec.geometry}' is not what {spec.source} holds: {found}")
    if stated and trained and stated != trained:
        wrong.append(f"models.{model}.trained_with: {spec.source} says {trained}, not {stated}")
    return (found, trained or stated), wrong


def absent(model: str, spec: ModelEntry, error: UserError) -> str:
    """The line that says why a source cannot be used, with the matrix's own command where it names one."""
    if spec.get and not Path(spec.source).expanduser().exists():
        return f"models.{model}.source: {spec.source} is not there. Get it: {spec.get}"
    return f"models.{model}.source: {error}"


def shape(geometry: Geometry) -> tuple[int, int, int, int]:
    """What a plan depends on; vocabularies differ between conversions of one model."""
    return geometry.layers, geometry.hidden, geometry.intermediate, geometry.visual_tokens


def build_method(spec: MethodEntry) -> Reducer:
    return build(spec.name, spec.params)


def method_of(cell: Cell, geometry: Geometry, trained: Reducer | None) -> Reducer:
    """The method of a cell with all its fields known. Raises ValueError when there is none for this model."""
    if cell.trained:
        if trained is None:
            raise ValueError("the checkpoint was trained without a reduction, or does not say which: use trained_with")
        return trained
    if cell.budget is None:
        return build(cell.method, cell.params)
    from hidrop.budget import budget_tokens, solve

    params: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in cell.params.items()}
    return solve(cell.method, params, budget_tokens(cell.budget, geometry.visual_tokens), geometry, cell.reading)


def place(cell: Cell) -> str:
    """Where in the file a method's setting stands."""
    return cell.entry if cell.budget is None else f"{cell.entry}.budget {short(cell.budget)}"
