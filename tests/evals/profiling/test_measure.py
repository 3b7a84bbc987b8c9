from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from baselines.downsample import Downsample
from baselines.fastv import FastV
from baselines.vanilla import Vanilla
from baselines.visionzip import VisionZip
from evals.profiling import Point, Profile, profile
from evals.profiling.memory import kv_bytes
from evals.profiling.prompt import build_request
from evals.profiling.record import Run
from hidrop.backbones import geometry_of
from hidrop.hidrop import HiDrop
from hidrop.plan import TokenPlan
from hidrop.reducer import Reducer
from hidrop.runtime import reduce

HIDROP = HiDrop(inject=3, filters=(3, 4), keep=(4, 2), exit=6)
METHODS: dict[str, Reducer] = {
    "vanilla": Vanilla(),
    "fastv-4": FastV(layer=2, keep=4),
    "fastv-rechosen": FastV(layer=2, keep=4, rechosen=True),
    "hidrop": HIDROP,
    "visionzip": VisionZip(dominant=3, contextual=1),  # these two change what the tower gives
    "downsample": Downsample(side=2),
}
POINTS = [Point(batch=batch, text_tokens=12, new_tokens=3, repeats=3, warmup=1) for batch in (1, 2)]


@pytest.fixture
def loaded(tiny_llava: Callable[..., Any]) -> SimpleNamespace:
    model = tiny_llava(kv_heads=2)
    return SimpleNamespace(model=model, geometry=geometry_of(model.config))


@pytest.fixture
def profiles(loaded: SimpleNamespace) -> dict[str, Profile]:
    return profile(loaded, METHODS, POINTS)


def test_every_method_is_measured_at_every_batch_size(profiles: dict[str, Profile]) -> None:
    assert list(profiles) == list(METHODS)
    for label, found in profiles.items():
        assert found.label == label
        assert [m.batch for m in found.measurements] == [1, 2]
        for m in found.measurements:
            for spread in (m.ttft_ms, m.prefill_ms, m.decode_ms):
                assert 0 < spread.min <= spread.median <= spread.p95


def test_counts_are_those_of_the_plan_per_sequence(profiles: dict[str, Profile], loaded: SimpleNamespace) -> None:
    for label, reducer in METHODS.items():
        plan = reducer.plan(loaded.geometry)
        for m in profiles[label].measurements:
            assert m.entering == plan.entering
            assert m.flops == plan.flops(POINTS[0].text_tokens)
            assert m.paper_macs == plan.paper_macs()
            assert m.kv_bytes == plan.kv_bytes(POINTS[0].text_tokens, element_bytes=4)


def test_prefill_leaves_the_vision_side_out_and_ttft_does_not(
    loaded: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = loaded.model.model.vision_tower
    calls, real = [], tower.forward

    def slow(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        torch.ones(400, 400) @ torch.ones(400, 400)
        return real(*args, **kwargs)

    monkeypatch.setitem(tower.__dict__, "forward", slow)
    point = Point(repeats=2, warmup=0, text_tokens=12, new_tokens=1)
    found = profile(loaded, {"vanilla": Vanilla()}, [point])["vanilla"].measurements[0]
    # One call to record, two for each round (with the first token, and alone), two for the facts; none for the timed
    # prefills.
    assert len(calls) == 1 + 2 * 2 + 2
    assert found.vision_ms is not None and found.vision_ms.median > 0
    assert found.prefill_source == "features"
    assert tower.__dict__["forward"] is slow


def test_a_method_that_works_in_the_tower_gets_its_own_features_back(loaded: SimpleNamespace) -> None:
    """The prefill without the vision side gives what the whole forward gives, for each method, not for one of them."""
    from evals.profiling.measure import _features

    prompt = build_request(loaded.model, loaded.geometry, POINTS[1])
    with torch.no_grad():
        features = _features(loaded.model, METHODS, dict.fromkeys(METHODS, prompt))
        for label, reducer in METHODS.items():
            with reduce(loaded.model, reducer):
                whole = loaded.model(**prompt.prefill_inputs()).logits
            with reduce(loaded.model, reducer, features=features[label]):
                torch.testing.assert_close(loaded.model(**prompt.prefill_inputs()).logits, whole)
    assert features["vanilla"] is features["hidrop"] and features["downsample"] is not features["vanilla"]


def test_every_round_has_every_method_once_in_an_order_of_its_own(
    loaded: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evals.profiling import measure as module

    order: list[str] = []
    real = module._time_once

    def spy(model: Any, way: Any, *args: Any) -> Any:
        order.append(way.reducer.name)
        return real(model, way, *args)

    monkeypatch.setattr(module, "_time_once", spy)
    point = Point(repeats=8, warmup=1, text_tokens=12, new_tokens=1)
    profile(loaded, {"a": Vanilla(), "b": HIDROP}, [point])
    rounds = [tuple(order[place : place + 2]) for place in range(0, len(order), 2)]
    assert len(rounds) == 9 and set(rounds) == {("vanilla", "hidrop"), ("hidrop", "vanilla")}


def test_speed_ups_are_over_vanilla_in_the_same_rounds_also_where_no_method_is_vanilla(
    loaded: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rounds are five times as slow from one to the next; vanilla takes 60 and 20 ms a token, the method half."""
    from evals.profiling import measure as module

    runs = {name: iter(range(3)) for name in ("vanilla", "hidrop")}

    def timed(model: Any, way: Any, *args: Any) -> Run:
        slow = 5.0 ** next(runs[way.reducer.name])
        share = slow * (1.0 if way.reducer.name == "vanilla" else 0.5)
        return Run(ttft=60 * share, prefill=40 * share, selection=0.0, decode=(20 * slow, 20 * slow))

    monkeypatch.setattr(module, "_time_once", timed)
    (found,) = profile(loaded, {"hidrop": HIDROP}, [Point(repeats=3, warmup=0, text_tokens=12, new_tokens=2)]).items()
    label, (one,) = found[0], found[1].measurements
    assert label == "hidrop" and one.speed_ups is not None
    assert one.speed_ups["prefill"] == one.speed_ups["ttft"] == {"ratio": 2.0, "low": 2.0, "high": 2.0}
    assert one.speed_ups["request"]["ratio"] == pytest.approx((60 + 20) / (30 + 20))


def test_methods_are_timed_where_vanilla_does_not_fit_into_memory(
    loaded: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Vanilla, "schedule", whole)
    point = Point(repeats=1, warmup=0, text_tokens=12, new_tokens=1)
    (one,) = profile(loaded, {"hidrop": HIDROP}, [point])["hidrop"].measurements
    assert one.prefill_ms.median > 0 and one.speed_ups is None
    with pytest.raises(torch.OutOfMemoryError):  # a matrix with this row asks for its time
        profile(loaded, {"vanilla": Vanilla(), "hidrop": HIDROP}, [point])


def test_a_cache_of_another_size_than_planned_is_an_error(
    loaded: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TokenPlan.kv_bytes
    monkeypatch.setattr(TokenPlan, "kv_bytes", lambda self, *a: real(self, *a) - 1)
    with pytest.raises(RuntimeError, match=r"vanilla: the KV cache holds \d+ bytes .* the plan says \d+"):
        profile(loaded, {"vanilla": Vanilla()}, [Point(repeats=1, warmup=0, text_tokens=12, new_tokens=1)])


def test_the_model_is_as_before_afterwards(loaded: SimpleNamespace) -> None:
    prompt = build_request(loaded.model, loaded.geometry, POINTS[0])
    with torch.no_grad():
        before = loaded.model(**prompt.prefill_inputs()).logits
        profile(loaded, METHODS, [Point(repeats=1, warmup=0, text_tokens=12, new_tokens=1)])
        after = loaded.model(**prompt.prefill_inputs()).logits
    assert torch.equal(before, after)


def test_decode_steps_continue_the_prompt_as_a_longer_prompt_would(loaded: SimpleNamespace) -> None:
    """What is timed as decoding is decoding: its logits are those of the same tokens given at once."""
    prompt = build_request(loaded.model, loaded.geometry, POINTS[1])
    with torch.no_grad(), reduce(loaded.model, Vanilla()):
        cache = loaded.model(**prompt.prefill_inputs()).past_key_values
        for step in range(POINTS[1].new_tokens):
            cached = loaded.model(**prompt.decode_inputs(step, cache)).logits
        ids = torch.cat([prompt.input_ids_BS, prompt.continuation_BN], dim=1)
        whole = loaded.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), **prompt.images, logits_to_keep=1
        ).logits
    torch.testing.assert_close(cached, whole, atol=1e-4, rtol=1e-4)


def test_kv_bytes_of_a_transformers_cache_are_read_off_its_tensors(loaded: SimpleNamespace) -> None:
    prompt = build_request(loaded.model, loaded.geometry, POINTS[1])
    with torch.no_grad():
        cache = loaded.model(**prompt.prefill_inputs()).past_key_values
    plan = Vanilla().plan(loaded.geometry)
    assert kv_bytes(cache) == 2 * plan.kv_bytes(POINTS[0].text_tokens, element_bytes=4)


def test_rows_are_ready_for_the_document(profiles: dict[str, Profile]) -> None:
    import json

    rows = profiles["hidrop"].rows(model="tiny", method="hidrop")
    assert [row["batch"] for row in rows] == [1, 2]
    assert json.loads(json.dumps(rows)) == rows
    assert set(rows[0]["prefill_ms"]) == {"median", "p95", "min"}
    assert set(rows[0]["speed_ups"]) == {"prefill", "ttft", "request"}
    assert {"model", "method", "label", "decode_ms", "ttft_ms", "peak_bytes", "kv_bytes", "flops", "paper_macs"} <= set(
        rows[0]
    )


@pytest.mark.cuda
def test_profile_on_a_gpu_uses_its_clock_and_its_allocator(tiny_llava: Callable[..., Any]) -> None:
    model = tiny_llava().to("cuda", torch.bfloat16)
    loaded = SimpleNamespace(model=model, geometry=geometry_of(model.config))
    found = profile(loaded, METHODS, POINTS)["hidrop"].measurements[0]
    assert found.prefill_ms.min > 0 and found.decode_ms.min > 0
    assert found.kv_bytes == HIDROP.plan(loaded.geometry).kv_bytes(POINTS[0].text_tokens, element_bytes=2)
    assert found.peak_bytes >= sum(p.numel() * p.element_size() for p in model.parameters())


def test_keys_that_the_next_layer_takes_over_are_not_billed_to_the_selection(loaded: SimpleNamespace) -> None:
    """FastV scores with attention that a layer has had; HiDrop makes keys of all tokens, and some of them stay."""
    from evals.profiling.measure import TimedCut, _marked

    prompt = build_request(loaded.model, loaded.geometry, POINTS[0])
    text, tokens = POINTS[0].text_tokens, prompt.visual_tokens + POINTS[0].text_tokens
    clock: Any = SimpleNamespace(mark=lambda: 0, between=lambda marks: [b - a for a, b in pairwise(marks)])
    for reducer, stays in ((HIDROP, [(text + 4) / tokens, (text + 2) / (text + 4)]), (METHODS["fastv-4"], [0.0])):
        cuts: list[TimedCut] = []
        with torch.no_grad(), reduce(loaded.model, reducer) as reduction, _marked(reduction.decoder, clock, cuts):
            loaded.model(**prompt.prefill_inputs())
        assert [cut.stays for cut in cuts] == stays and all(len(cut.keys) == 2 for cut in cuts if cut.stays)
    assert TimedCut([0, 10], [2, 6], 0.25).milliseconds(clock) == 9
    assert TimedCut([0, 10], [], 0.0).milliseconds(clock) == 10
    assert not any(layer.self_attn.k_proj._forward_hooks for layer in loaded.model.model.language_model.layers)
