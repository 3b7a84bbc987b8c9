"""Resolves the cells of a matrix to rows: each model's sizes, each method's fields and plan. Needs no weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from evals.matrix.schema import Cell, Matrix, MethodEntry, ModelEntry, short
from hidrop.errors import UserError
from hidrop.geometry import PRESETS, Geometry
from hidrop.method_source import method_digest, outside_files
from hidrop.methods import METHODS, build, check_published, class_reference, method_class
from hidrop.plan import TokenPlan
from hidrop.reducer import Reducer
from hidrop.regular_files import local_path

Peek = Callable[[str], tuple[Geometry, Reducer | None]]


@dataclass(frozen=True)
class MatrixRow:
    """One model with one method: a row of the plan and of the results table."""

    model: str
    label: str
    reducer: Reducer
    plan: TokenPlan
    trained: bool  # the checkpoint was trained with exactly this schedule
    budget: str | None
    group: str  # the label without its seed
    nominal: bool = False  # nobody stated the image that the plan is of: only its shares mean something

    @property
    def method(self) -> str:
        return self.reducer.name

    @property
    def source(self) -> str:
        """The digest of the method's code. `resolve` has taken it, soon after the code was imported."""
        return method_digest(self.reducer)

    @property
    def code(self) -> str | None:
        """Where the classes of the method are that are not part of hidrop, and the digest of its source."""
        if not outside_files(self.reducer):
            return None
        classes = ", ".join(name for cls in self.reducer.classes if (name := class_reference(cls)) not in METHODS)
        return f"{classes}, source {self.source[:12]}"

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.label


def peek_files(source: str) -> tuple[Geometry, Reducer | None]:
    """The sizes and the trained method in a checkpoint's config. Raises UserError if it cannot be read."""
    from hidrop.models import peek

    peeked = peek(source)
    return peeked.geometry, peeked.reducer


def resolve(
    matrix: Matrix, cells: Iterable[Cell], *, peek: Peek = peek_files, trust_presets: bool = False
) -> tuple[dict[tuple[str, str], MatrixRow], list[str]]:
    """The rows of `cells` by (model, label), and one line for each problem, with its place in the matrix file.

    With `trust_presets`, a model that states its `geometry` is not read from disk, so that a plan can be printed on a
    machine without its files.
    """
    cells = list(cells)
    problems: list[str] = []
    known: dict[str, tuple[Geometry, Reducer | None]] = {}
    for model, spec in {cell.model: cell.spec for cell in cells}.items():
        sized, wrong = size(model, spec, peek, trust_presets)
        problems += wrong
        if not sized:
            continue
        try:
            known[model] = spec.counted(sized[0]), sized[1]
        except ValueError as error:
            problems.append(f"models.{model}.{error}")
    rows: dict[tuple[str, str], MatrixRow] = {}
    for cell in {(cell.model, cell.label): cell for cell in cells}.values():
        if cell.model not in known:
            continue
        geometry, trained = known[cell.model]
        try:
            reducer, geometry = method_of(cell, geometry, trained)
            plan = reducer.plan(geometry)
            method_digest(reducer)
        except (ValueError, TypeError) as error:
            problems.append(f"methods.{place(cell)} on {cell.model}: {error}")
            continue
        taught = None if trained is None else trained.on(geometry).as_trained
        own = reducer.name != "vanilla" and reducer.as_trained == taught
        budget = None if cell.budget is None else short(cell.budget)
        nominal = not known[cell.model][0].referenced
        rows[cell.model, cell.label] = MatrixRow(
            cell.model, cell.label, reducer, plan, own, budget, cell.group, nominal
        )
    return rows, [f"{matrix.file}: {line}" for line in dict.fromkeys(problems)]


def size(
    model: str, spec: ModelEntry, peek: Peek, trust_presets: bool
) -> tuple[tuple[Geometry, Reducer | None] | None, list[str]]:
    """Geometry and trained method of one model, from its files or, if they are missing, from the matrix; problems."""
    stated = build_method(spec.trained_with) if spec.trained_with else None
    preset = PRESETS[spec.geometry] if spec.geometry else None
    if preset and trust_presets:
        return (preset, stated), misplaced(model, spec, preset)
    try:
        found, trained = peek(spec.source)
    except UserError as error:
        lines = misplaced(model, spec, preset) if preset else []
        return ((preset, stated) if preset else None), [absent(model, spec, error), *lines]
    wrong = misplaced(model, spec, found)
    if preset and shape(preset) != shape(found):
        wrong.append(f"models.{model}.geometry: '{spec.geometry}' differs from the sizes of {spec.source}: {found}")
    if stated and trained and stated != trained:
        wrong.append(f"models.{model}.trained_with: {stated} differs from the method in {spec.source}: {trained}")
    return (found, trained or stated), wrong


def misplaced(model: str, spec: ModelEntry, geometry: Geometry) -> list[str]:
    """A line if the method that a model was trained with is a published setting of models with other sizes."""
    if spec.trained_with is None:
        return []
    try:
        check_published(method_class(spec.trained_with.name), spec.trained_with.params, geometry)
    except ValueError as error:
        return [f"models.{model}.trained_with: {error}"]
    return []


def absent(model: str, spec: ModelEntry, error: UserError) -> str:
    """Why a model's source cannot be used, with the command of the matrix that provides it, if it has one."""
    if spec.get and not _there(spec.source):
        return f"models.{model}.source: {spec.source} does not exist. Get it: {spec.get}"
    return f"models.{model}.source: {error}"


def _there(source: str) -> bool:
    try:
        return local_path(source, source).exists()
    except UserError:  # no folder can have this name
        return False


def shape(geometry: Geometry) -> tuple[int, int, int, int]:
    """The sizes that a plan depends on. The vocabulary does not count: it differs between conversions of one model."""
    tokens = geometry.visual_tokens if geometry.referenced else 0  # a nominal number says nothing about the model
    return geometry.layers, geometry.hidden, geometry.intermediate, tokens


def build_method(spec: MethodEntry) -> Reducer:
    return build(spec.name, spec.params)


def method_of(cell: Cell, geometry: Geometry, trained: Reducer | None) -> tuple[Reducer, Geometry]:
    """The method of a cell with all its fields, and the sizes that its numbers of tokens are of.

    Raises ValueError if the model or its sizes do not allow it.
    """
    from hidrop.budget import check_absolute, solve

    if cell.trained:
        if trained is None:
            raise ValueError("the checkpoint names no method that it was trained with. State it as trained_with")
        geometry = check_absolute(type(trained), vars(trained), None, geometry)
        return trained.on(geometry), geometry
    geometry = check_absolute(method_class(cell.method), cell.params, cell.budget, geometry)
    if cell.budget is None:
        return build(cell.method, cell.params).on(geometry), geometry
    return solve(cell.method, cell.params, cell.budget, geometry, cell.reading).on(geometry), geometry


def place(cell: Cell) -> str:
    """The place of a method's setting in the matrix file."""
    return cell.entry if cell.budget is None else f"{cell.entry}.budget {short(cell.budget)}"
