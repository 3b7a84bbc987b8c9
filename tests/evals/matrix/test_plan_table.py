import pytest

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


def test_a_wide_terminal_gets_the_same_rows(paper):
    shown = planning.screen(*paper, 200)
    for text in ("3.82 T", "hidrop (trained)", "8x0 2x576 4x215 2x10 2x5 6x1 8x0"):
        assert text in shown
    assert "Left out" not in shown


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_terminal_gets_whole_rows_and_the_names_of_what_is_left_out(paper, width):
    matrix, entries = paper
    shown = planning.screen(matrix, entries, width).splitlines()
    assert max(map(len, shown)) <= width
    notes = " ".join(shown[shown.index(next(line for line in shown if line.startswith("Left out"))) :])
    headings, *rows = shown[1:3]
    assert "share" in headings and "paper MACs" not in headings
    gone = notes.removeprefix("Left out at this width: ").partition(". ")[0].split(", ")
    assert [heading for heading in planning.HEADINGS if heading not in headings] == sorted(
        gone, key=planning.HEADINGS.index
    )
    assert rows[0].split()[:2] == ["llava-1.5-7b", "vanilla"]


def test_one_model_is_named_once(paper):
    matrix, entries = paper
    shown = planning.screen(matrix, entries[:1], 200)
    assert shown.startswith("paper: 1 rows of llava-1.5-7b\n") and shown.count("llava-1.5-7b") == 1
