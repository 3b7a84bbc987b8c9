import io

import pytest
from rich.console import Console

from evals.matrix import plan_table as planning
from evals.matrix.resolve import resolve
from evals.matrix.schema import load_matrix


@pytest.fixture(scope="module")
def paper():
    matrix = load_matrix("paper")
    cells = matrix.cells(only="llava-1.5-7b/vanilla") + matrix.cells(only="hidrop-7b-64")
    rows, _ = resolve(matrix, cells, trust_presets=True)
    return matrix, [planning.entry(row, matrix) for row in rows.values()]


def test_layers_with_the_same_count_are_one_run():
    assert planning.run_lengths([0, 0, 576, 64, 64, 64]) == "2x0 1x576 3x64"


@pytest.mark.parametrize(
    ("count", "text"), [(3.82e12, "3.82 T"), (0.42e12, "0.42 T"), (5.1e9, "5.10 G"), (2e6, "2.00 M"), (7, "7")]
)
def test_large_numbers_get_a_unit(count, text):
    assert planning.scaled(count) == text


def test_the_plan_says_tokens_flops_and_cache_of_each_row(paper):
    lines = planning.plain(*paper).splitlines()
    assert len(lines) == 4
    told = " ".join(lines[1].split())
    assert told == "llava-1.5-7b vanilla 100.0 % 576.00 576 3.82 T 8.34 T 318.0 MiB 32x576"
    assert "64.00" in lines[2] and "hidrop (trained)" in lines[2] and lines[2].endswith("6x1 8x0")


def test_a_plan_for_images_of_their_own_sizes_states_the_image_that_numbers_are_for(paper, tmp_path):
    assert "their own numbers" not in planning.plain(*paper)
    text = (
        "protocol: llava\nmodels: {a: {source: x, geometry: qwen2.5-vl-7b}}\ntasks: {gqa: {data: mini}}\nmethods:\n"
        "  fastv: {layer: 2, budget: 22.2%}\n"
    )
    (tmp_path / "own.yaml").write_text(text)
    matrix = load_matrix(tmp_path / "own.yaml")
    rows, problems = resolve(matrix, matrix.cells(), trust_presets=True)
    entries = [planning.entry(row, matrix) for row in rows.values()]
    assert problems == [] and entries[0]["reference_tokens"] == 1296
    assert planning.cells_of(entries[0])[2:4] == ("22.2 %", f"{entries[0]['average_tokens']:.2f}")
    assert entries[0]["average_tokens"] == pytest.approx(0.222 * 1296, abs=0.5)
    assert "numbers for an image of 1296." in planning.plain(matrix, entries)


def test_numbers_that_ties_or_samples_change_are_marked(tmp_path):
    text = (
        "protocol: llava\nmodels: {a: {source: x, geometry: llava-1.5-7b}}\ntasks: {gqa: {data: mini}}\nmethods:\n"
        "  tied: {name: hidrop, inject: 9, filters: [10, 14, 16, 18], keep: [87, 10, 5, 1], exit: 25, ties: released}\n"
        '  ranked: {name: sparsevlm, version: "1.0"}\n'
    )
    (tmp_path / "own.yaml").write_text(text)
    matrix = load_matrix(tmp_path / "own.yaml")
    rows, problems = resolve(matrix, matrix.cells(), trust_presets=True)
    assert problems == []
    tied, ranked = planning.plain(matrix, [planning.entry(row, matrix) for row in rows.values()]).splitlines()[1:3]
    assert " ~ 48.00 " in tied and tied.endswith("~ 8x0 2x576 4x87 2x10 2x5 6x1 8x0")
    assert " <= 576.00 " in ranked and ranked.endswith("depends on the sample")


def test_a_terminal_gets_the_same_rows(paper):
    console = Console(file=io.StringIO(), width=200)
    console.print(planning.table(*paper))
    shown = console.file.getvalue()
    for text in ("3.82 T", "hidrop (trained)", "8x0 2x576 4x215 2x10 2x5 6x1 8x0"):
        assert text in shown
