"""The checks before a run: every problem that can be found without loading a model, all in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from evals.matrix import capture, packages, passed_checks
from evals.matrix.resolve import MatrixRow, Peek, absent, peek_files, place, resolve
from evals.matrix.schema import Cell, Matrix
from evals.tasks import TaskSpec, missing, remarks
from evals.tasks.data import locate
from hidrop.atomic_file import unwritable_out
from hidrop.errors import UserError


def check(
    matrix: Matrix, cells: Iterable[Cell], *, device: str, out: Path, peek: Peek = peek_files
) -> tuple[dict[tuple[str, str], MatrixRow], list[str]]:
    """The resolved rows of `cells`, and one line for each problem, with its place and what to do.

    Checks files of models and data, architectures, method settings, packages, the device and the results folder.
    """
    cells = list(cells)
    rows, problems = resolve(matrix, cells, peek=peek)
    problems += installed(matrix)
    problems += models(matrix, cells, rows)
    problems += kernels(matrix, cells, device)
    problems += capture.problems(matrix, cells, rows, device)
    problems += data(matrix, cells) or tried(matrix, cells)
    problems += unwritable_out(out)
    return rows, list(dict.fromkeys(problems))


def installed(matrix: Matrix) -> list[str]:
    """Packages that every run needs and that are not installed. `kernels` checks for flash-attn."""
    needed = ("torch", "transformers", "datasets", "lmms_eval")
    return [f"{matrix.file}: {packages.missing(name)}" for name in packages.lacking(needed)]


def models(matrix: Matrix, cells: list[Cell], rows: Mapping[tuple[str, str], MatrixRow]) -> list[str]:
    """Checkpoints that cannot be loaded or asked: missing files, broken ones, parts that do not fit each other.

    The checkpoints of methods' own are among them.
    """
    if packages.lacking(["torch", "transformers"]):
        return []
    problems = []
    for name in dict.fromkeys(cell.model for cell in cells):
        own = [cell for cell in cells if cell.model == name]
        problems += _of_model(matrix, name, own, rows)
    return problems


def _of_model(matrix: Matrix, name: str, cells: list[Cell], rows: Mapping[tuple[str, str], MatrixRow]) -> list[str]:
    """The problems of one model, whose cells these are. Checks that passed are not done again (`passed_checks`)."""
    spec, protocols = matrix.models[name], {cell.protocol for cell in cells}
    labelled = {cell.label: cell for cell in cells if (name, cell.label) in rows}
    reducers = [rows[name, label].reducer for label in labelled]
    filmed = next((cell.protocol for cell in cells if cell.task_spec.task.filmed), None)
    before = passed_checks.basis(spec, protocols, filmed, reducers)
    if passed_checks.passed(before):
        return []
    from evals.tasks.protocol import protocol
    from hidrop.models import check

    try:
        parts = check(spec.source, spec.pixel_limits)
        for asked in sorted(protocols):
            protocol(asked).rehearse(parts.backbone, parts.tokenizer, parts.processor)
        if filmed is not None:
            protocol(filmed).sampling(parts.backbone, spec.frames, spec.fps)
    except UserError as error:
        return [f"{matrix.file}: {absent(name, spec, error)}"]
    problems = []
    for cell, reducer in zip(labelled.values(), reducers, strict=True):
        try:
            reducer.check_files(parts.backbone)
        except UserError as error:
            problems.append(f"{matrix.file}: methods.{place(cell)} on {name}: {error}")
    if not problems and passed_checks.basis(spec, protocols, filmed, reducers) == before:
        passed_checks.note(before)
    return problems


def kernels(matrix: Matrix, cells: list[Cell], device: str) -> list[str]:
    """Devices, dtypes, attention kernels and quantizations that this machine cannot run."""
    if packages.lacking(["torch"]):
        return []
    from hidrop.models.loading import check_kernel

    problems = []
    for asked in dict.fromkeys(
        (cell.attention, device, cell.dtype, cell.quantization, cell.spec.device_map) for cell in cells
    ):
        try:
            check_kernel(*asked)
        except UserError as error:
            problems.append(f"{matrix.file}: {error}")
    return problems


def alone(matrix: Matrix, cells: Iterable[Cell], processes: int) -> None:
    """Raises UserError if several processes would each spread a model over all devices."""
    for cell in cells:
        if processes > 1 and cell.spec.device_map:
            raise UserError(
                f"{matrix.file}: models.{cell.model}.device_map: {cell.spec.device_map} spreads the model over all "
                f"CUDA devices, but {processes} processes were started. Start one process, or remove device_map"
            )


def data(matrix: Matrix, cells: list[Cell]) -> list[str]:
    """Datasets that are missing or incomplete, or that hold what their task cannot read or score."""
    return _of_data(matrix, cells, missing)


def tried(matrix: Matrix, cells: list[Cell]) -> list[str]:
    """Tasks of lmms-eval without a class here whose functions fail on the first documents. Takes some seconds."""
    if packages.lacking(["pyarrow", "lmms_eval"]):
        return []
    from evals.tasks.rehearsal import rehearsed

    specs = dict.fromkeys(cell.task_spec for cell in cells if cell.task_spec.task.any_columns)
    there = [spec for spec in specs if locate(spec).questions]  # the Hub's data may come with the run
    own = {spec.name: str(spec.task.yaml_file) for spec in there if matrix.tasks[spec.name].yaml is not None}
    return [f"{matrix.file}: tasks.{line}" for line in rehearsed(there, own)]


def notes(matrix: Matrix, cells: list[Cell]) -> list[str]:
    """What a reader of the numbers should know about the data, such as another number of rows than the official one."""
    return _of_data(matrix, cells, remarks)


def _of_data(matrix: Matrix, cells: list[Cell], lines: Callable[[TaskSpec], list[str]]) -> list[str]:
    if packages.lacking(["pyarrow"]):
        return []
    specs = dict.fromkeys(cell.task_spec for cell in cells)
    return [f"{matrix.file}: tasks.{line}" for spec in specs for line in lines(spec)]
