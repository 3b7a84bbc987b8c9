"""`run.py bench`: what it measures, what it makes of it, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evals import cli
from evals.bench import inference as bench
from evals.bench import text as bench_text
from evals.bench.document import BENCH
from evals.profiling import ceilings as ceilings_module
from evals.profiling.ceilings import Ceilings, measure_ceilings, physical_ms
from evals.profiling.clock import Clock
from evals.profiling.random_model import build
from evals.profiling.record import Measurement, Spread
from evals.profiling.settings import ProfileSettings
from hidrop.backbones import geometry_of
from hidrop.backbones.llava import Tower
from hidrop.errors import UserError
from hidrop.geometry import PRESETS, Geometry
from hidrop.methods import build as build_method
from tests.hidrop.runtime.test_cuda_graphs import FxRecorder

TINY = Geometry(
    layers=6, hidden=32, intermediate=48, heads=4, kv_heads=2, head_dim=8, vocab=99, visual_tokens=16, max_positions=512
)
TOWER = Tower(hidden=24, intermediate=48, layers=2, heads=2, patch=8)
# Unreduced, with known counts, and with counts that depend on the data.
REDUCERS = {
    "vanilla": build_method("vanilla"),
    "fastv": build_method("fastv", {"layer": 2, "keep": 4}),
    "sparse": build_method("sparsevlm", {"version": "1.0", "layers": [2], "scale": 60}),
}


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
        (["--batch", "1,x"], "--batch takes whole numbers of 1 or more, such as 1,4 (got 1,x)"),
        (["--batch", "0"], "--batch takes whole numbers of 1 or more, such as 1,4 (got 0)"),
        (["--text", "2"], "--text: input should be greater than or equal to 4"),
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
    monkeypatch.setattr(bench, "bench", lambda *_: pytest.fail("measured"))
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
    settings = ProfileSettings(repeats=2, warmup=0, batch=(1, 2), text_tokens=8, new_tokens=2)
    found = bench.bench(loaded, REDUCERS, settings)
    assert [(row["label"], row["batch"]) for row in found.rows] == [(n, b) for b in (1, 2) for n in REDUCERS]
    vanilla, fastv, sparse = found.rows[:3]
    assert (vanilla["speed_up"], vanilla["of_ideal"]) == (1, {"layerwise": 1, "physical": 1, "flops": 1})
    assert fastv["ideal_speed_up"]["flops"] == pytest.approx(vanilla["flops"] / fastv["flops"])
    assert fastv["kv_bytes"] == fastv["kv_bytes_planned"] < vanilla["kv_bytes"]
    assert 0 < fastv["selection_share"] < 1
    assert vanilla["selection_share"] == 0
    share = fastv["vision_ms"]["median"] / fastv["ttft_ms"]["median"]
    assert fastv["vision_share"] == pytest.approx(share) and share > 0
    assert sparse["average_tokens"] < 16
    assert set(found.overhead) == {1, 2}
    assert json.loads(json.dumps(found.document(device="cpu", model="tiny")))["rows"][0]["label"] == "vanilla"


@pytest.mark.usefixtures("small_ceilings")
def test_captured_methods_are_measured_in_the_rounds_of_captured_vanilla(monkeypatch: pytest.MonkeyPatch) -> None:
    class Untimed(FxRecorder):
        """As on CUDA: an event that is recorded while a graph is captured cannot be waited for."""

        def record(self, *given: Any) -> Any:
            with monkeypatch.context() as patch:
                patch.setattr(Clock, "mark", lambda clock: pytest.fail("timed while a graph was captured"))
                return super().record(*given)

    loaded = build(TINY, TOWER, dtype=torch.float32, device=torch.device("cpu"))
    settings = ProfileSettings(repeats=2, warmup=0, batch=(2,), text_tokens=8, new_tokens=2)
    recorder = Untimed()
    found = {row["label"]: row for row in bench.bench(loaded, REDUCERS, settings, recorder).rows}
    assert set(found) == {*REDUCERS, "vanilla (captured)", "fastv (captured)"}
    # The whole forward, the prefill after given features, and the steps after each of the two.
    assert recorder.recorded == 2 * 4
    captured = found["fastv (captured)"]
    assert captured["vision_ms"] is captured["vision_share"] is None, "one graph with the decoder"
    assert captured["captured"] and captured["kv_bytes"] == captured["kv_bytes_planned"]
    ratio = found["vanilla (captured)"]["prefill_ms"]["median"] / captured["prefill_ms"]["median"]
    assert captured["speed_up"] == pytest.approx(ratio)


def test_targets_are_for_an_h200_and_for_captured_rows() -> None:
    def row(method: str, batch: int, ms: float, ttft: float, captured: bool = True) -> dict[str, Any]:
        return {
            "method": method,
            "label": method,
            "batch": batch,
            "captured": captured,
            "prefill_ms": {"median": ms},
            "ttft_ms": {"median": ttft},
            "of_physical_limit": 0.8,
            "speed_up": 4.0,
        }

    rows = [row("vanilla", 1, 12, 14), row("hidrop", 1, 5.1, 7), row("vanilla", 16, 1, 1), row("hidrop", 16, 1, 1)]
    rows.append(row("hidrop", 1, 99, 99, captured=False))
    assert bench_text.targets(rows, "llava-1.5-7b", "NVIDIA A100", 48) == []
    found = {bar.what: bar.holds for bar in bench_text.targets(rows, "llava-1.5-7b", "NVIDIA H200", 48)}
    assert found == {
        "batch 1: vanilla, ms": True,
        "batch 1: vanilla, part of the physical limit": True,
        "batch 1: hidrop, ms": False,
        "batch 1: hidrop, part of the physical limit": True,
        "batch 1: hidrop, TTFT speed-up": False,
        "batch 16: hidrop, speed-up": False,
    }
    assert bench_text.targets(rows, "llava-1.5-7b", "NVIDIA H200", 64)[2].holds  # 5.3 ms there


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


def rates() -> bench.Rates:
    def spread(ms: float) -> Spread:
        return Spread(ms, ms, ms)

    settings = ProfileSettings(text_tokens=8)
    vanilla = measurement(60.0, (16,) * 6)
    # Six layers of 9 ms at 24 tokens, of 3 ms at 12, of 2 ms at 8.
    spreads = {"24": spread(54.0), "12": spread(18.0), "8": spread(12.0), bench.PLAIN: spread(58.0)}
    return bench.Rates(TINY, Ceilings(1e9, 1e9), settings, 4, spreads, vanilla)


def measurement(prefill: float, entering: tuple[int, ...]) -> Measurement:
    spread = Spread(prefill, prefill, prefill)
    share = Spread(prefill / 10, prefill / 10, prefill / 10)
    flops = sum(entering) + 48
    return Measurement(1, 8, 2, 3, spread, spread, "features", share, share, entering, flops, 1, 7, 1)


def test_the_layerwise_ideal_by_hand() -> None:
    """Vanilla 6 x 9 ms, FastV 2 x 9 + 4 x 3: 54 / 30 = 1.8; it reached 60 / 40 = 1.5 of it."""
    row = rates().row("fastv", build_method("fastv", {"layer": 2, "keep": 4}), measurement(40.0, (16, 16, 4, 4, 4, 4)))
    assert row["ideal_speed_up"]["layerwise"] == pytest.approx(1.8)
    assert row["speed_up"] == pytest.approx(1.5)
    assert row["of_ideal"]["layerwise"] == pytest.approx(1.5 / 1.8)
    assert row["selection_share"] == pytest.approx(0.1)
    assert row["layerwise_ms"] == pytest.approx(30.0)


def test_tokens_that_were_not_known_before_the_run_have_no_layerwise_ideal() -> None:
    sparse = build_method("sparsevlm", {"version": "1.0"})
    row = rates().row("sparse", sparse, measurement(40.0, (16, 16, 3, 3, 3, 3)))
    assert row["ideal_speed_up"]["layerwise"] is row["of_ideal"]["layerwise"] is None
    assert row["of_ideal"]["flops"] > 0


def test_bars_are_missed_and_held_by_their_numbers() -> None:
    of = rates()
    vanilla = of.row("vanilla", build_method("vanilla"), of.vanilla)
    fastv = of.row("fastv", build_method("fastv", {"layer": 2, "keep": 4}), measurement(30.0, (16, 16, 4, 4, 4, 4)))
    found = {bar.what: bar for bar in bench_text.bars([vanilla, fastv], {"1": 60 / 58})}
    assert found["batch 1: fastv, part of the layerwise limit"].holds
    assert not found["batch 1: vanilla / transformers' own forward"].holds
    assert not found["batch 1: methods whose KV bytes differ from the plan"].holds  # 7 bytes are no plan's
    text = bench_text.bars_text(list(found.values()))
    assert "MISSED" in text and "holds" in text
    table = bench_text.tables([{**vanilla, "vision_ms": {"median": 24.0}, "vision_share": 0.4}, fastv], {"1": 1.0})
    assert "(not as planned)" in table and re.search(r"24.0 +40.0 %", table)


@pytest.mark.usefixtures("small_ceilings")
def test_the_command_prints_measures_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hidrop.models.load", lambda *_, **__: build(TINY, TOWER, dtype=torch.float32, device=torch.device("cpu"))
    )
    monkeypatch.setattr("hidrop.models.peek", lambda source: SimpleNamespace(geometry=TINY))
    command = ["bench", "--model", "tiny", "--methods", "fastv", "--budget", "50%", "--repeats", "1", "--warmup", "0"]
    assert cli.main([*command, "--text", "8", "--new", "1", "--out", str(tmp_path), "--json"]) == 0
    printed = capsys.readouterr()
    (path,) = tmp_path.glob("tiny-float32-*.json")
    document = BENCH.read(path)
    assert json.loads(printed.out) == document
    assert document["budget"] == TINY.visual_tokens / 2
    assert "Ceilings measured" in printed.err and "layerwise" in printed.err
    monkeypatch.setattr(bench_text, "bars", lambda *_: [bench_text.Bar("never", 1.0, most=0)])
    assert cli.main([*command, "--text", "8", "--new", "1", "--out", str(tmp_path), "--bars"]) == 1
    assert "MISSED" in capsys.readouterr().out


def test_budget_errors_are_the_users() -> None:
    with pytest.raises(UserError, match="--methods fastv"):
        bench.methods(("fastv",), 1, TINY)
