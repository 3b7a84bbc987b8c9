"""Which cells run by CUDA graphs (`graphs`) and with compiled norms and MLPs (`compile`), and why some cannot."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterable, Mapping

from evals.matrix.resolve import MatrixRow
from evals.matrix.schema import Cell, Matrix
from hidrop.geometry import Geometry


def obstacle(
    geometry: Geometry, device: str, attention: str, quantization: str | None = None, device_map: str | None = None
) -> str | None:
    """Why nothing of a model can be a CUDA graph, in words; None if it can."""
    if not device.startswith("cuda"):
        return f"CUDA graphs need a CUDA device, not {device}"
    if attention != "sdpa":
        return f"CUDA graphs need attention sdpa, not {attention}"
    if device_map:
        return f"a model that device_map {device_map} spreads over devices cannot be captured"
    if quantization:
        return f"the kernels of quantization {quantization} were not tried in CUDA graphs"
    if geometry.dynamic:
        return "images have their own numbers of tokens, so that nearly every batch would be another graph"
    return None


def cell_obstacle(cell: Cell, geometry: Geometry, device: str) -> str | None:
    """`obstacle` of a cell's model."""
    return obstacle(geometry, device, cell.attention, cell.quantization, cell.spec.device_map)


def captured(cell: Cell, row: MatrixRow, device: str) -> bool:
    """Whether a cell runs by CUDA graphs."""
    possible = row.reducer.capturable and cell_obstacle(cell, row.plan.geometry, device) is None
    return cell.graphs is not False and possible


def problems(
    matrix: Matrix, cells: Iterable[Cell], rows: Mapping[tuple[str, str], MatrixRow], device: str
) -> list[str]:
    """One line for each model for which `graphs: true` or `compile: true` is not possible here."""
    found = []
    for cell in {cell.model: cell for cell in cells if (cell.model, cell.label) in rows}.values():
        geometry = rows[cell.model, cell.label].plan.geometry
        if cell.graphs is True and (why := cell_obstacle(cell, geometry, device)):
            found.append(f"{matrix.file}: graphs: true for {cell.model}: {why}. Use auto or false")
        if cell.compiled and (why := not_compiled(cell.quantization, device)):
            found.append(f"{matrix.file}: compile: true for {cell.model}: {why}")
    return found


def not_compiled(quantization: str | None, device: str) -> str | None:
    """Why norms and MLPs cannot be compiled, in words with the way out; None if they can."""
    if quantization:
        return f"layers with quantization {quantization} were not tried compiled. Leave out one of the two"
    if device.startswith("cuda"):
        lacking = importlib.util.find_spec("triton") is None
        return "torch compiles for CUDA by triton, which is not installed. Install triton" if lacking else None
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++")):
        return "torch compiles for a CPU by a C++ compiler, and there is none. Install g++, or name one in CXX"
    return None
