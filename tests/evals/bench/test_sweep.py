"""Sweeps: their points, files that are written after each, going on after a kill, lists, comparisons and pages."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from evals import cli
from evals.bench import files, run
from evals.bench.compare import compare
from evals.bench.document import BENCH
from evals.bench.figures import drawn
from evals.bench.inference import PointResult
from evals.bench.page import html
from evals.bench.sweep import Sweep
from evals.profiling.ceilings import Ceilings
from evals.profiling.point import Point
from evals.profiling.random_model import build
from tests.evals.bench.rates import FASTV, TINY, VANILLA, rates, timed
from tests.evals.bench.test_inference import TOWER

SWEEP = Sweep(batch=(1, 4), text=(8, 16), images=(1, 2), new=(1, 16, 128))
FACTS: dict[str, Any] = {"model": "tiny", "source": "random weights", "device": "cpu", "dtype": "float32"}
FACTS |= {"attention": "sdpa", "memory_kept": False, "compiled": False}
ASKED = {"vanilla": VANILLA, "fastv": FASTV}
COMMITTED = [
    Path("results/bench") / f"{name}.json"
    for name in ("bench-400m-float32-amd-epyc-2-threads", "llava-1.5-7b-bfloat16-nvidia-h200")
]


def measured(loaded: Any, asked: Any, point: Point, *more: Any) -> PointResult:
    """Instead of `bench_point`: the same numbers at once."""
    of = rates(point, SWEEP.new)
    rows = [of.row("vanilla", VANILLA, of.vanilla), of.row("fastv", FASTV, timed(30.0, (16, 16, 4, 4, 4, 4)))]
    overhead: Any = {"ratio": 1.0, "low": 0.9, "high": 1.1}
    return PointResult(Ceilings(1e9 * point.batch, 1e9), overhead, {"transformers": [58.0]}, rows)


@pytest.fixture(scope="module")
def loaded() -> Any:
    return build(TINY, TOWER, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def sweep(loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs SWEEP, stopping before point number `until`; returns file, document and what was said."""

    def ran(out: Path = tmp_path, until: int | None = None, settings: Sweep = SWEEP) -> tuple[Path, Any, list[str]]:
        points: list[Point] = []

        def one(loaded: Any, asked: Any, point: Point, *more: Any) -> PointResult:
            if len(points) == until:
                raise KeyboardInterrupt
            points.append(point)
            return measured(loaded, asked, point, *more)

        monkeypatch.setattr(run, "bench_point", one)
        said: list[str] = []
        facts = {
            "model": "tiny",
            "source": "random weights",
            "device": "cpu",
            "dtype": "float32",
            "attention": "sdpa",
            "memory_kept": False,
        }
        start = run.header(loaded, settings, ASKED, **facts, compiled=False)
        path, document = run.run(loaded, settings, ASKED, start, out, said.append)
        return path, document, said

    return ran


def test_every_combination_is_a_point_and_the_batch_changes_fastest() -> None:
    points = [(point.images, point.text_tokens, point.batch) for point in SWEEP.points()]
    assert points == [(i, t, b) for i in (1, 2) for t in (8, 16) for b in (1, 4)]


def test_a_sweep_goes_on_where_it_stopped(sweep: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep(until=5)
    (path,) = tmp_path.glob("*.json")
    part = BENCH.read(path)
    assert (len(part["points"]), part["points_left"], len(part["rows"])) == (5, 3, 10)
    again, document, said = sweep()
    assert again == path and BENCH.read(path) == document
    assert said[0].startswith(f"{path}: goes on with an unfinished run, 5 of 8 points")
    assert sum(text.startswith("Batch") for text in said) == 8, "the answers of all points are shown"
    assert document["points_left"] == 0 and document["points"][:5] == part["points"]
    assert document["ceilings"]["bytes_per_second"] == 4e9
    assert len({(row["label"], row["images"], row["text_tokens"], row["batch"]) for row in document["rows"]}) == 16
    other, *_ = sweep()
    assert other != path and len(list(tmp_path.glob("*.json"))) == 2, "a finished file is not overwritten"


def test_a_point_that_does_not_fit_is_noted_and_the_others_are_measured(
    sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(loaded: Any, asked: Any, point: Point, *more: Any) -> PointResult:
        if point.batch * point.text_tokens > 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measured(loaded, asked, point, *more)

    said: list[str] = []
    monkeypatch.setattr(run, "bench_point", hungry)
    model = build(TINY, TOWER, dtype=torch.float32, device=torch.device("cpu"))
    start = run.header(model, SWEEP, ASKED, **FACTS)
    path, document = run.run(model, SWEEP, ASKED, start, tmp_path, said.append)
    assert BENCH.read(path) == document and document["points_left"] == 0
    assert [one["out_of_memory"] for one in document["points"]] == [False, False, False, True] * 2
    assert "Batch 4, 1 image, 16 text tokens: out of memory\n" in said and len(document["rows"]) == 12
    assert "Out of memory: batch 4, 2 images, 16 text tokens" in html(document)
    monkeypatch.setattr(run, "bench_point", lambda *_: (_ for _ in ()).throw(RuntimeError("another")))
    with pytest.raises(RuntimeError, match="another"):
        run.run(model, SWEEP, ASKED, start, tmp_path, said.append)


def test_a_budget_has_the_same_row_in_a_file_with_one_and_with_several(sweep: Any, tmp_path: Path) -> None:
    path, document, _ = sweep()
    other = json.loads(json.dumps(document))
    for row in other["rows"]:
        row["label"] = row["label"].replace("fastv", "fastv-4")
    second = tmp_path / "b.json"
    second.write_text(json.dumps(other))
    for found in (compare(str(path), str(second)), compare(str(second), str(path))):
        assert len(found.pairs) == 16 and not found.only_a and not found.only_b and not found.differing


def test_other_settings_or_other_code_are_another_file(
    sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep(until=1)
    (path,) = tmp_path.glob("*.json")
    (tmp_path / "damaged.json").write_text('{"points_left": 1')
    for number, change in enumerate(({"repeats": 3}, {"new": (1,)})):
        assert sweep(settings=Sweep(batch=(1, 4), text=(8, 16), images=(1, 2), **change))[0] != path, number
    monkeypatch.setattr(run, "code_digest", lambda: "0" * 64)
    assert sweep()[0] != path
    assert BENCH.read(path)["points_left"] == 7


def test_files_are_listed_and_compared_with_their_own_ceilings(
    sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, document, _ = sweep(tmp_path / "a")
    other = json.loads(json.dumps(document))
    for row in other["rows"]:
        row["prefill_ms"]["samples"] = [one / 2 for one in row["prefill_ms"]["samples"]]
        row["prefill_ms"]["p50"] /= 2
        row["of_physical_limit"] *= 1.5
    other["rows"] = other["rows"][:-1]
    other["versions"]["torch"] = "9.9"
    second = tmp_path / "b.json"
    second.write_text(json.dumps(other))
    found = compare(str(path), str(second))
    assert len(found.pairs) == 15 and {pair.prefill["ratio"] for pair in found.pairs} == {2.0}
    assert {pair.tpot["ratio"] for pair in found.pairs} == {1.0} and not found.differing
    assert found.only_a == ["fastv (batch 4, 2 images, 16 text tokens)"] and not found.only_b
    assert "torch 9.9" in found.machines[1] and "copy 4 GB/s" in found.machines[1]
    tables = [line for line in found.text().splitlines() if line.startswith(("method ", "vanilla ", "fastv "))]
    tables.remove("vanilla of the same file. Request: with the longest output length that both have.")
    assert max(map(len, tables)) <= 80, max(tables, key=len)
    assert cli.main(["compare", str(path), str(second)]) == 0
    assert "2.00x" in capsys.readouterr().out
    assert cli.main(["compare", str(path), str(tmp_path)]) == 2
    assert "give two results folders or two files of bench" in capsys.readouterr().err
    assert cli.main(["ls", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    assert f"a/{path.name}" in printed.err and "torch 9.9" in printed.err
    assert [entry["path"] for entry in json.loads(printed.out)["bench"]] == [str(path), str(second)]


def test_a_file_of_a_commit_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    name = "results/bench/llava-1.5-7b-bfloat16-nvidia-h200.json"
    assert cli.main(["compare", f"HEAD:{name}", name]) == 0
    assert "different settings" not in capsys.readouterr().out
    assert cli.main(["compare", "HEAD:results/none.json", name]) == 2
    assert "git cannot show it" in capsys.readouterr().err


def test_the_page_has_the_answer_the_figures_and_the_numbers(
    sweep: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, document, _ = sweep()
    assert [name for name, _ in drawn(document)] == ["request", "breakdown", "possible", "heat"]
    assert cli.main(["report", str(path), "--out", str(tmp_path / "page")]) == 0
    text = (tmp_path / "page" / f"{path.stem}.html").read_text()
    assert "fastv: prefill 2.00x" in text and text.count("<figure>") == 4 and "device seconds each" in text
    assert "fastv: prefill 2.00x" in capsys.readouterr().out
    assert cli.main(["report", str(path), "--tables"]) == 2
    assert "--tables and --samples are for results folders" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path", [path for path in COMMITTED if not path.name.startswith("train-")], ids=lambda p: p.stem
)
def test_the_page_of_a_committed_file_can_be_made(path: Path) -> None:
    text = html(BENCH.read(path))
    assert "hidrop: prefill" in text and "<figure>" in text


def test_a_file_of_schema_1_is_read_with_what_it_has(tmp_path: Path) -> None:
    document = BENCH.read(Path("results/bench/llava-1.5-7b-bfloat16-nvidia-h200.json"))
    assert document["schema"] == 1 and [point["batch"] for point in document["points"]] == [1, 16]
    row = next(row for row in document["rows"] if row["label"] == "hidrop (captured)" and row["batch"] == 16)
    assert row["speed_ups"]["prefill"]["ratio"] == pytest.approx(4.95, abs=0.01)
    assert row["speed_ups"]["prefill"]["low"] is None and row["requests"] == []
    assert row["prefill_ms"]["p50"] == pytest.approx(58.2, abs=0.1) and row["budget"] == "48"


def test_a_file_of_schema_2_is_read_without_the_intervals_that_it_lacks() -> None:
    (path,) = Path("results/bench").glob("bench-400m-*-t500-*.json")
    written, document = json.loads(path.read_text()), BENCH.read(path)
    assert written["schema"] == 2
    ratio = written["points"][0]["vanilla_over_transformers"]
    assert document["points"][0]["vanilla_over_transformers"] == {"ratio": ratio, "low": None, "high": None}
    assert {row["of_layerwise"] for row in document["rows"]} == {None}


def test_only_files_of_bench_are_listed(tmp_path: Path) -> None:
    (tmp_path / "leaderboard.json").write_text('{"schema": 1, "cells": []}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "rows.json").write_text('{"rows": []}')
    assert list(files.listed(tmp_path)) == []
    listed = [path.name for path, _ in files.listed(Path("results/bench"))]
    assert {path.name for path in COMMITTED} <= set(listed)


@pytest.mark.slow
def test_a_sweep_of_24_combinations_survives_kill_9(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "run.py",
        "bench",
        "--model",
        "mini:vanilla",
        "--methods",
        "fastv",
        "--budget",
        "25%,50%",
    ]
    command += ["--batch", "1,2,3", "--text", "20,30", "--images", "1,2", "--new", "1,8", "--steps", "1"]
    command += ["--repeats", "1", "--warmup", "0", "--out", str(tmp_path)]
    for wanted in (4, 9):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and done(tmp_path) < wanted:
            time.sleep(0.05)
        assert process.poll() is None, "it ended before it was killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert done(tmp_path) >= wanted, "nothing that was measured is lost"
    last = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "goes on with an unfinished run" in last.stdout
    (path,) = tmp_path.glob("*.json")
    document = BENCH.read(path)
    assert document["points_left"] == 0 and len(document["points"]) == 12  # two budgets in the rounds of each
    assert {row["label"] for row in document["rows"]} == {"vanilla", "fastv-25%", "fastv-50%"}
    assert len(document["rows"]) == 36


def done(folder: Path) -> int:
    """Points that the one file in the folder has."""
    paths = list(folder.glob("*.json"))
    return len(json.loads(paths[0].read_text())["points"]) if paths else 0
