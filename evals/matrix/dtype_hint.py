"""A hint for models in float32 on a processor that multiplies bfloat16 about twice as fast."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evals.matrix.schema import Cell, Matrix

CPUINFO = Path("/proc/cpuinfo")
# The kernel's names of the instructions for products of bfloat16 matrices, the faster ones first.
INSTRUCTIONS = ("amx_bf16", "avx512_bf16")


def bfloat16_hint(matrix: Matrix, cells: Iterable[Cell], device: str, cpuinfo: Path = CPUINFO) -> list[str]:
    """One line if models run in float32 on such a processor, else none."""
    models = list(dict.fromkeys(cell.model for cell in cells if cell.dtype == "float32"))
    instructions = bfloat16_instructions(cpuinfo)
    if device != "cpu" or not models or instructions is None:
        return []
    return [
        f"{matrix.file}: {', '.join(models)} in float32: this CPU has {instructions}, with which dtype: bfloat16 can "
        "be twice as fast. It gives other numbers"
    ]


def bfloat16_instructions(cpuinfo: Path = CPUINFO) -> str | None:
    """The processor's instructions for bfloat16, as the kernel calls them; None without any."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return next((name for name in INSTRUCTIONS if name in flags), None)
