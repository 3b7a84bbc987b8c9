from __future__ import annotations

from pathlib import Path

import pytest

from evals.matrix.dtype_hint import bfloat16_hint, bfloat16_instructions
from evals.matrix.schema import load_matrix

MATRIX = """
protocol: lmms-eval
dtype: float32
models:
  one: {source: "mini:vanilla"}
  two: {source: "mini:hidrop", dtype: bfloat16}
methods: {vanilla: {}}
tasks: {gqa: {data: mini}, pope: {data: mini}}
"""


def cpu(folder: Path, flags: str) -> Path:
    file = folder / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu {flags} sse\n\nprocessor\t: 1\n")
    return file


@pytest.mark.parametrize(
    ("flags", "found"), [("avx512_bf16 avx512f", "avx512_bf16"), ("avx512_bf16 amx_bf16", "amx_bf16"), ("avx2", None)]
)
def test_the_fastest_instructions_for_bfloat16_are_named(tmp_path: Path, flags: str, found: str | None) -> None:
    assert bfloat16_instructions(cpu(tmp_path, flags)) == found
    assert bfloat16_instructions(tmp_path / "none") is None


def test_models_in_float32_get_one_line_on_a_cpu_that_has_them(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(MATRIX)
    matrix, fast = load_matrix(file), cpu(tmp_path, "avx512_bf16")
    (line,) = bfloat16_hint(matrix, matrix.cells(), "cpu", fast)
    assert line.startswith("own.yaml: one in float32: this CPU has avx512_bf16, with which dtype: bfloat16 ")
    assert bfloat16_hint(matrix, matrix.cells(), "cuda", fast) == []
    assert bfloat16_hint(matrix, matrix.cells(only="two"), "cpu", fast) == []
    assert bfloat16_hint(matrix, matrix.cells(), "cpu", cpu(tmp_path, "avx2")) == []
