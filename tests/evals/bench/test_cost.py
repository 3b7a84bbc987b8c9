from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals.bench import cost
from evals.bench.document import BENCH as BENCH_FILE
from evals.bench.document import TRAINING
from evals.cli import main
from evals.matrix.resolve import resolve
from evals.matrix.schema import load_matrix
from evals.profiling.ceilings import Ceilings
from evals.tasks import TaskSpec
from evals.tasks.data import rows_of
from hidrop.errors import UserError

COMMITTED = json.loads(Path("results/bench/bench-400m-float32-amd-epyc-2-threads.json").read_text())
ROW = COMMITTED["rows"][0]
BENCH = {
    **COMMITTED,
    "rows": [
        {**ROW, "method": "vanilla", "batch": 1, "of_physical_limit": 0.5},
        {**ROW, "method": "vanilla", "batch": 8, "of_physical_limit": 0.9},
        {**ROW, "method": "fastv", "batch": 1, "of_physical_limit": 0.25},
    ],
    "hardware": {**COMMITTED["hardware"], "gpu": "H200"},
    "dtype": "float16",
    "ceilings": {"bytes_per_second": 4.3e12, "flops_per_second": 790e12},
}


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(BENCH))
    return path


def test_the_least_is_the_roofline_worked_out_by_hand(bench: Path) -> None:
    """LLaVA-1.5-7B on 790 TFLOP/s and 4.3 TB/s: 10.62 ms a prefill, and reading 32 layers and the head for a token."""
    matrix = load_matrix("paper")
    rows, _ = resolve(matrix, matrix.cells(only="llava-1.5-7b/vanilla"), trust_presets=True)
    speed = cost.read(bench)
    (row,) = rows.values()
    one_token = 32 * 404.8e6 / 4.3e9 + 2 * 4096 * 32064 / 4.3e9 + 318 * 2**20 / 4.3e9
    assert cost.sample_ms(row, speed.ceilings, 1, 60, 2) == pytest.approx(10.62 + 3 * one_token, rel=0.005)


def test_a_batch_reads_the_weights_once(bench: Path) -> None:
    matrix = load_matrix("paper")
    rows, _ = resolve(matrix, matrix.cells(only="hidrop-7b-48"), trust_presets=True)
    (row,) = rows.values()
    slow = Ceilings(1e6, 1e30)  # bytes are all that counts
    assert cost.sample_ms(row, slow, 16, 60, 2) < cost.sample_ms(row, slow, 1, 60, 2) / 10


def test_hours_are_samples_times_time_over_what_was_reached(bench: Path) -> None:
    matrix = load_matrix("paper")
    cells = matrix.cells(only="llava-1.5-7b/fastv-64") + matrix.cells(only="llava-1.5-7b/random-64-s0")
    rows, _ = resolve(matrix, cells, trust_presets=True)
    speed = cost.read(bench)
    fastv, random = cost.estimate(matrix, cells, rows, speed)
    assert fastv.samples == random.samples == 12578 + 4377 + 5000 + 8910
    assert fastv.least_hours == pytest.approx(random.least_hours)
    assert fastv.expected_hours == pytest.approx(4 * fastv.least_hours)
    assert random.expected_hours == pytest.approx(2 * random.least_hours), "not timed: vanilla's part is taken"
    limited = load_matrix("paper", limit=100)
    (few,) = cost.estimate(limited, limited.cells(only="llava-1.5-7b/fastv-64"), rows, speed)
    assert few.samples == 400


def test_data_that_is_at_hand_is_counted(data_folder: Path) -> None:
    assert rows_of(TaskSpec("gqa", str(data_folder))) == 3
    assert rows_of(TaskSpec("gqa", "nowhere")) == rows_of(TaskSpec("gqa", "hub")) == 12578


def test_the_plan_prints_the_hours(bench: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "paper", "--only", "llava-1.5-7b/vanilla", "--cost", str(bench), "--json"]) == 0
    printed = capsys.readouterr()
    assert "least hours" in printed.err and "Hours of one device (H200, float16" in printed.err
    (entry,) = json.loads(printed.out)["cost"]
    assert entry["expected_hours"] == 2 * entry["least_hours"]


def without(name: str) -> dict[str, Any]:
    return {**BENCH, "rows": [{key: value for key, value in ROW.items() if key != name}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "not JSON"),
        ("[]", "not a file of the command bench: it has no schema number"),
        ("{}", "it has no schema number"),
        ({"schema": 1, "rows": []}, "hardware is missing; versions is missing; date is missing; and 7 more problems"),
        ({**BENCH, "rows": []}, "the file has no timing of vanilla"),
        ({**BENCH, "schema": 7}, "of a newer version (schema 7, this version reads up to 3). Update hidrop"),
        (without("of_physical_limit"), "rows[0].of_physical_limit is missing"),
        ({**BENCH, "ceilings": {"bytes_per_second": "fast", "flops_per_second": 1}}, "ceilings.bytes_per_second: "),
    ],
)
def test_another_file_is_refused_in_words(
    content: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    path = tmp_path / "other.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert main(["plan", "paper", "--cost", str(path)]) == 2
    said = capsys.readouterr().err
    assert message in said and f"--cost {path}" in said
    assert "Update hidrop" in said or "`run.py bench` writes one" in said


def test_a_file_of_bench_train_is_not_one_of_bench(tmp_path: Path) -> None:
    training = next(Path("results/bench").glob("train-*-amd-*.json"))
    assert len(TRAINING.read(training)["rows"]) == 6
    with pytest.raises(UserError, match="not a file of the command bench, but a file of kind 'training'"):
        BENCH_FILE.read(training)
    (tmp_path / "bench.json").write_text(json.dumps(COMMITTED))
    with pytest.raises(UserError, match="not a file of the command bench-train, but a file of kind None"):
        TRAINING.read(tmp_path / "bench.json")


def test_an_early_file_knew_no_cuda_graphs(tmp_path: Path) -> None:
    early = {name: value for name, value in COMMITTED.items() if name not in ("compiled", "commit")}
    early["rows"] = [{name: value for name, value in row.items() if name != "captured"} for row in COMMITTED["rows"]]
    (tmp_path / "bench.json").write_text(json.dumps(early))
    document = BENCH_FILE.read(tmp_path / "bench.json")
    assert document["compiled"] is False and document["commit"] is None
    assert [row["captured"] for row in document["rows"]] == [False] * 5
