"""`run.py bench`: what it measures, what it makes of it, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evals import cli
from evals.bench import bars
from evals.bench import inference as bench
from evals.bench import text as bench_text
from evals.bench.answer import vanilla_of
from evals.bench.document import BENCH
from evals.bench.inference import Asked
from evals.profiling import ceilings as ceilings_module
from evals.profiling.ceilings import Ceilings, measure_ceilings, physical_ms
from evals.profiling.clock import Clock
from evals.profiling.measure import Timed
from evals.profiling.point import Point
from evals.profiling.random_model import build
from hidrop.backbones import geometry_of
from hidrop.backbones.llava import Tower
from hidrop.errors import UserError
from hidrop.geometry import PRESETS, Geometry
from hidrop.methods import build as build_method
from tests.evals.bench.rates import FASTV, TINY, VANILLA, rates, timed
from tests.hidrop.runtime.test_cuda_graphs import FxRecorder

TOWER = Tower(hidden=24, intermediate=48, layers=2, heads=2, patch=8)
# Unreduced, with known counts, and with counts that depend on the data.
REDUCERS = {
    "vanilla": build_method("vanilla"),
    "fastv": build_method("fastv", {"layer": 2, "keep": 4}),
    "sparse": build_method("sparsevlm", {"version": "1.0", "layers": [2], "scale": 60}),
}


ASKED = {label: Asked(reducer, "50%") for label, reducer in REDUCERS.items()}


@pytest.fixture
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings_module, "COPY_BYTES", {"cpu": 1 << 12})
    monkeypatch.setattr(ceilings_module, "MATRIX", {"cpu": 16})
    monkeypatch.setattr(ceilings_module, "SECONDS", 0.0)


def test_a_random_model_has_the_sizes_that_were_asked_for() -> None:
    loaded = build(TINY, TOWER, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert geometry_of(loaded.model.config) == TINY
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(ValueError, match="15 visual tokens are not a square"):
        build(TINY.with_visual_tokens(15), TOWER, dtype=torch.float32, device=torch.device("cpu"))


def test_methods_meet_the_budget_and_vanilla_comes_first() -> None:
    for name in ("bench-400m", "llava-1.5-7b", "llava-1.5-13b"):
        found = bench.methods(("fastv", "hidrop", "pdrop", "text_only", "vanilla"), 64, PRESETS[name])
        assert list(found) == ["vanilla", "fastv", "hidrop", "pdrop", "text_only"]
        for label in ("fastv", "hidrop", "pdrop"):
            assert found[label].plan(PRESETS[name]).average_tokens == pytest.approx(64, abs=1)
    assert bench.methods(("pdrop",), 270, PRESETS["llava-1.5-7b"])["pdrop"].layers == (8, 16, 24)


def test_hidrops_layers_are_the_published_ones_at_their_depth() -> None:
    assert bench.published_layers(32) == {"inject": 9, "filters": (10, 14, 16, 18), "exit": 25}
    assert bench.published_layers(6) == {"inject": 2, "filters": (2, 3, 4, 5), "exit": 7}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--geometry", "llava-1.5-7c"], "Did you mean 'llava-1.5-7b'"),
        (["--batch", "1,x"], "--batch: takes whole numbers of 1 or more, such as 1,4 (got '1,x')"),
        (["--batch", "0"], "--batch: takes whole numbers of 1 or more, such as 1,4 (got '0')"),
        (["--text", "2"], "--text: takes whole numbers of 4 or more, such as 60,500 (got '2')"),
        (["--images", "1,3", "--text", "60,4"], "--text: 4 text tokens are too few for 3 images; at least 6"),
        (["--repeats", "1,2"], "--repeats: takes one number (got '1,2')"),
        (["--budget", "64,64"], "--budget: takes one or more different values, such as 64,11% (got '64,64')"),
        (["--methods", "hidrp"], "--methods: unknown method 'hidrp'. Did you mean 'hidrop'"),
        (["--budget", "600"], "--methods hidrop: hidrop: an average of 600 visual tokens is out of reach"),
        (["--attention", "sdp"], "attention: unknown value 'sdp'. Did you mean 'sdpa'"),
        (["--model", "mini:vanila"], "mini:vanila"),
        (["--model", "mini:vanilla", "--geometry", "bench-400m"], "give --geometry or --model, not both"),
        (["--budget", "101%"], "--budget: a budget is a number of visual tokens (64) or a share"),
    ],
)
def test_bad_arguments_name_themselves_before_anything_is_measured(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.bench.run.bench_point", lambda *_: pytest.fail("measured"))
    assert cli.main(["bench", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_physical_limit_by_hand() -> None:
    """Two layers, one bound by arithmetic and one by reading its weights, and the head for one token."""
    g = Geometry(2, 4, 8, 2, 1, 2, 10, 3)
    weights = 4 * 4 + 4 * 2 * 2 + 4 * 4 + 3 * 4 * 8  # q, k and v, o, MLP
    assert weights == 144
    limits = Ceilings(bytes_per_second=1e3, flops_per_second=1e4)
    flops = [2 * n * weights + 4 * 4 * n * (n + 1) // 2 for n in (103, 3)]
    moved = [2 * (weights + 2 * n * 2) for n in (103, 3)]
    assert flops[0] / 1e4 > moved[0] / 1e3 and flops[1] / 1e4 < moved[1] / 1e3
    wanted = 1000 * (flops[0] / 1e4 + moved[1] / 1e3 + max(2 * 40 / 1e4, 2 * 40 / 1e3))
    assert physical_ms((100, 0), g, limits, 1, 3, 2) == pytest.approx(wanted)
    # Of a batch the weights are read once.
    assert physical_ms((0, 0), g, limits, 2, 3, 2) < 2 * physical_ms((0, 0), g, limits, 1, 3, 2)


def test_the_published_limits_of_an_h200() -> None:
    """790 TFLOP/s and 4.3 TB/s, bf16, 60 text tokens: 10.62 ms vanilla, 3.74 HiDrop-64, 3.07 for text alone."""
    g, limits = PRESETS["llava-1.5-7b"], Ceilings(4.3e12, 790e12)
    hidrop = bench.methods(("hidrop",), 64, g)["hidrop"].plan(g).entering
    for entering, wanted in (((576,) * 32, 10.62), (hidrop, 3.74), ((0,) * 32, 3.07)):
        assert physical_ms(entering, g, limits, 1, 60, 2) == pytest.approx(wanted, rel=0.01)


@pytest.mark.usefixtures("small_ceilings")
def test_ceilings_are_positive_and_scale_to_seconds() -> None:
    found = measure_ceilings(torch.device("cpu"), torch.float32)
    assert found.bytes_per_second > 0 and found.flops_per_second > 0
    assert found.milliseconds(found.flops_per_second, 0) == pytest.approx(1000)


@pytest.mark.usefixtures("small_ceilings")
def test_everything_is_measured_in_the_same_rounds() -> None:
    loaded = build(TINY, TOWER, dtype=torch.float32, device=torch.device("cpu"))
    point = Point(batch=2, text_tokens=8, new_tokens=2, repeats=3, warmup=0)
    found = bench.bench_point(loaded, ASKED, point, (1, 5), room=1 << 30)
    assert [(row["label"], row["batch"]) for row in found.rows] == [(name, 2) for name in ASKED]
    vanilla, fastv, sparse = found.rows
    same = {"ratio": 1, "low": 1, "high": 1}
    assert (vanilla["speed_ups"]["prefill"], vanilla["of_ideal"]) == (same, {"layerwise": 1, "physical": 1, "flops": 1})
    assert fastv["ideal_speed_up"]["flops"] == pytest.approx(vanilla["flops"] / fastv["flops"])
    assert fastv["kv_bytes"] == fastv["kv_bytes_planned"] < vanilla["kv_bytes"]
    assert 0 < fastv["selection_share"] < 1
    assert vanilla["selection_share"] == 0
    assert fastv["vision_share"] == pytest.approx(fastv["vision_ms"]["p50"] / fastv["ttft_ms"]["p50"])
    assert sparse["average_tokens"] < 16
    assert found.overhead["ratio"] > 0 and fastv["budget"] == "50%"
    assert set(found.beside) == {bench.PLAIN, bench.NO_LAYERS, "24", "12"}
    assert {len(taken) for taken in found.beside.values()} == {3}
    assert [len(fastv[f"{name}_ms"]["samples"]) for name in ("ttft", "prefill", "tpot", "itl")] == [3, 3, 3, 6]
    one, five = fastv["requests"]
    assert one["e2el_ms"]["p50"] == fastv["ttft_ms"]["p50"]
    taken = zip(fastv["ttft_ms"]["samples"], fastv["tpot_ms"]["samples"], strict=True)
    assert five["e2el_ms"]["mean"] == pytest.approx(sum(ttft + 4 * tpot for ttft, tpot in taken) / 3, abs=1e-4)
    assert five["requests_per_second"] == pytest.approx(2000 / five["e2el_ms"]["p50"])
    assert five["output_tokens_per_second"] == pytest.approx(5 * five["requests_per_second"])
    assert fastv["largest_batch"] > vanilla["largest_batch"] > 2


@pytest.mark.usefixtures("small_ceilings")
def test_captured_methods_are_measured_in_the_rounds_of_captured_vanilla(monkeypatch: pytest.MonkeyPatch) -> None:
    class Untimed(FxRecorder):
        """As on CUDA: an event that is recorded while a graph is captured cannot be waited for."""

        def record(self, *given: Any) -> Any:
            with monkeypatch.context() as patch:
                patch.setattr(Clock, "mark", lambda clock: pytest.fail("timed while a graph was captured"))
                return super().record(*given)

    loaded = build(TINY, TOWER, dtype=torch.float32, device=torch.device("cpu"))
    point = Point(batch=2, text_tokens=8, new_tokens=2, repeats=2, warmup=0)
    recorder = Untimed()
    rows = bench.bench_point(loaded, ASKED, point, (4,), recorder).rows
    found = {row["label"]: row for row in rows}
    assert list(found) == [*ASKED, "vanilla (captured)", "fastv (captured)"]
    # The whole forward, the prefill after given features, and the steps after each of the two.
    assert recorder.recorded == 2 * 4
    captured = found["fastv (captured)"]
    assert captured["vision_ms"] is captured["vision_share"] is None, "one graph with the decoder"
    assert captured["captured"] and captured["kv_bytes"] == captured["kv_bytes_planned"]
    ratio = found["vanilla (captured)"]["prefill_ms"]["p50"] / captured["prefill_ms"]["p50"]
    assert captured["speed_ups"]["prefill"]["ratio"] == pytest.approx(ratio)
    assert vanilla_of(captured, rows) is found["vanilla (captured)"]


def test_layers_stand_for_all_of_the_depth() -> None:
    assert bench.chosen_layers(24) == [0, 4, 8, 12, 16, 20]
    assert bench.chosen_layers(3) == [0, 1, 2]


@pytest.mark.usefixtures("small_ceilings")
def test_eager_layers_are_timed_with_their_causal_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = build(TINY, TOWER, dtype=torch.float32, device=torch.device("cpu"), attention="eager")
    seen: list[Any] = []
    layer = loaded.model.model.language_model.layers[0]
    inner = layer.forward
    monkeypatch.setitem(layer.__dict__, "forward", lambda *a, **k: seen.append(k["attention_mask"]) or inner(*a, **k))
    bench.timed_layers(loaded.model, 5, 0, 1)()
    assert (seen[0][0, 0] < 0).tolist() == [[j > i for j in range(5)] for i in range(5)]


def test_the_layerwise_ideal_by_hand() -> None:
    """Vanilla 6 x 9 + 6 ms, FastV 2 x 9 + 4 x 3 + 6: 60 / 36 = 1.67; it reached 60 / 40 = 1.5 of it."""
    row = rates().row("fastv", FASTV, timed(40.0, (16, 16, 4, 4, 4, 4)))
    assert row["ideal_speed_up"]["layerwise"] == pytest.approx(60 / 36)
    assert row["speed_ups"]["prefill"]["ratio"] == pytest.approx(1.5)
    assert row["of_ideal"]["layerwise"] == row["of_layerwise"]["ratio"] == pytest.approx(0.9)
    assert (row["of_layerwise"]["low"], row["of_layerwise"]["high"]) == pytest.approx((0.9, 0.9))
    assert row["selection_share"] == pytest.approx(0.1)
    assert row["layerwise_ms"] == pytest.approx(36.0)
    # 40 + 10 x 4 against 60 + 10 x 6.
    assert [one["e2el_ms"]["p50"] for one in row["requests"]] == pytest.approx([40, 80])
    assert row["requests"][1]["speed_up"]["ratio"] == pytest.approx(1.5)


def test_tokens_that_were_not_known_before_the_run_have_no_layerwise_ideal() -> None:
    sparse = Asked(build_method("sparsevlm", {"version": "1.0"}))
    row = rates().row("sparse", sparse, timed(40.0, (16, 16, 3, 3, 3, 3)))
    assert row["ideal_speed_up"]["layerwise"] is row["of_ideal"]["layerwise"] is row["of_layerwise"] is None
    assert row["of_ideal"]["flops"] > 0


def test_a_point_is_printed_in_tables_of_80_columns() -> None:
    of = rates()
    captured = replace(of.vanilla.measurement, vision_ms=None)
    rows = [
        of.row("vanilla", VANILLA, of.vanilla),
        of.row("fastv-11.1111%", FASTV, timed(30.0, (16, 16, 4, 4, 4, 4))),
        of.row("vanilla (captured)", VANILLA, Timed(captured, of.vanilla.runs)),
    ]
    for row in rows:
        row["requests"][-1]["joules"] = 12.34
    *tables, answers = bench_text.point_text(rows, {"ratio": 1.0, "low": None, "high": None}).split("\n\n")
    text = "\n".join(tables)
    assert max(len(line) for table in tables for line in table.splitlines()) <= 80
    assert "(not as planned)" in text and re.search(r"12.0 \(20 %\)", text) and "12.34" in text
    # Twice as fast in everything, above the layerwise limit of 60 / 36.
    assert "1.20~ of 1.67x" in text
    assert "fastv-11.1111%: prefill 2.00x, TTFT 2.00x" in answers and "worth it at every output length." in answers


@pytest.mark.usefixtures("small_ceilings")
def test_the_command_prints_measures_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hidrop.models.load", lambda *_, **__: build(TINY, TOWER, dtype=torch.float32, device=torch.device("cpu"))
    )
    monkeypatch.setattr("hidrop.models.peek", lambda source: SimpleNamespace(geometry=TINY))
    command = ["bench", "--model", "tiny", "--methods", "fastv", "--budget", "50%", "--repeats", "1", "--warmup", "0"]
    command += ["--text", "8", "--steps", "1", "--out", str(tmp_path)]
    assert cli.main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    (path,) = tmp_path.glob("tiny-float32-*-b1-t8-i1-*.json")
    document = BENCH.read(path)
    assert json.loads(printed.out) == document
    assert document["settings"]["budget"] == ["50%"] and document["methods"]["fastv"]["fields"]["keep"] == 4
    assert "Ceilings measured" in printed.err and "layerwise" in printed.err
    monkeypatch.setattr(bars, "bars", lambda *_: [bars.Bar("never", 1.0, most=0)])
    assert cli.main([*command, "--bars"]) == 1
    assert "MISSED" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.json"))) == 2, "a finished file is not overwritten"


def test_budget_errors_are_the_users() -> None:
    with pytest.raises(UserError, match="--methods fastv"):
        bench.methods(("fastv",), 1, TINY)


def test_a_method_is_there_at_each_budget_and_vanilla_once() -> None:
    found = bench.asked_methods(("fastv", "text_only"), {"6": 6, "50%": 8}, TINY)
    assert {label: one.budget for label, one in found.items()} == {
        "vanilla": None,
        "fastv-6": "6",
        "text_only": None,
        "fastv-50%": "50%",
    }
    assert found["fastv-50%"].reducer.plan(TINY).average_tokens == 8
