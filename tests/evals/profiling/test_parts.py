"""The parts of a profile: statistics, settings, synthetic prompts, the vision side, memory, hardware."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evals.profiling import Measurement, Spread
from evals.profiling.clock import Clock, no_collector
from evals.profiling.memory import peak_bytes, resident_bytes
from evals.profiling.point import Point
from evals.profiling.prompt import build_request, named_ids
from evals.profiling.vision import recorded_answer, replayed_answer
from hidrop.backbones import geometry_of
from hidrop.provenance import cpu_name, describe, versions


def test_spread_is_median_interpolated_p95_and_minimum() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 5.0, 4.0]) == Spread(median=3.0, p95=pytest.approx(4.8), min=1.0)
    assert Spread.of([2.0, 4.0]) == Spread(median=3.0, p95=pytest.approx(3.9), min=2.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="no timings"):
        Spread.of([])


def test_tokens_per_second_counts_the_whole_batch() -> None:
    spread = Spread(20.0, 20.0, 20.0)
    measured = Measurement(4, 60, 8, 10, spread, spread, "features", spread, spread, (16,), 1, 1, 1, 1)
    assert measured.tokens_per_second == pytest.approx(200.0)


def test_prompt_holds_one_image_between_text_and_no_other_placeholder(tiny_llava: Callable[..., Any]) -> None:
    model = tiny_llava()
    geometry = geometry_of(model.config)
    prompt = build_request(model, geometry, Point(text_tokens=9, new_tokens=50, batch=3))
    visual = prompt.input_ids_BS == model.config.image_token_id
    assert visual.sum(1).tolist() == [geometry.visual_tokens] * 3
    assert prompt.input_ids_BS.shape == (3, 9 + geometry.visual_tokens)
    assert not visual[:, :4].any() and visual[:, 4].all() and not visual[:, -5:].any()
    forbidden = torch.tensor([model.config.image_token_id, model.config.text_config.pad_token_id])
    assert not torch.isin(prompt.continuation_BN, forbidden).any()
    assert len({tuple(row) for row in prompt.input_ids_BS.tolist()}) == 3


def test_prompt_is_the_same_for_the_same_seed(tiny_llava: Callable[..., Any]) -> None:
    model = tiny_llava()
    geometry = geometry_of(model.config)
    one, same, other = (build_request(model, geometry, Point(seed=seed, batch=2)) for seed in (0, 0, 1))
    assert torch.equal(one.images["pixel_values"], same.images["pixel_values"]) and torch.equal(
        one.input_ids_BS, same.input_ids_BS
    )
    assert not torch.equal(one.images["pixel_values"], other.images["pixel_values"])


def test_transformers_own_forward_gets_the_features_that_it_made_before(tiny_llava: Callable[..., Any]) -> None:
    model = tiny_llava(layers=2)
    prompt = build_request(model, geometry_of(model.config), Point(text_tokens=8, batch=2))
    given, calls = prompt.prefill_inputs(), list[Any]()
    model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        answer = recorded_answer(model, lambda: model(**given))
        whole = model(**given).logits
        with replayed_answer(model, answer):
            assert torch.equal(model(**given).logits, whole) and len(calls) == 2
        assert torch.equal(model(**given).logits, whole) and len(calls) == 3
        with pytest.raises(ValueError, match="LlavaModel made its images' features 0 times"):
            recorded_answer(model, lambda: None)
    assert "get_image_features" not in model.model.__dict__


def test_ids_that_a_config_names_are_no_words() -> None:
    config = {"image_token_id": 5, "eos_token_id": [7, 8], "pad_token_id": None, "text_config": {"boi_token_index": 3}}
    assert named_ids({**config, "vocab_size": 9}) == {3, 5, 7, 8}


def test_resident_bytes_count_shared_memory_once() -> None:
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    assert resident_bytes(model) == 800
    model[1].weight = model[0].weight
    assert resident_bytes(model) == 400


def test_peak_on_the_cpu_is_the_most_held_at_once_and_not_the_sum() -> None:
    model = nn.Linear(4, 4, bias=False)

    def run() -> None:
        first = torch.empty(1000)
        second = torch.empty(2000)
        del first, second
        torch.empty(500)

    assert peak_bytes(model, run) == 4 * (16 + 3000)


def test_clock_gives_milliseconds_between_marks() -> None:
    clock = Clock(torch.device("cpu"))
    assert clock.between([1.0, 1.5, 1.75]) == pytest.approx([500.0, 250.0])
    assert clock.between([clock.start(), clock.mark()])[0] >= 0


def test_collector_is_off_inside_and_as_before_outside() -> None:
    assert gc.isenabled()
    with pytest.raises(KeyError), no_collector():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_hardware_names_processor_cores_and_threads() -> None:
    facts = describe("cpu")
    assert facts["cpu"] and facts["cores"] >= 1 and facts["threads"] == torch.get_num_threads()
    assert "gpu" not in facts


def test_cpu_name_is_read_from_cpuinfo_and_survives_its_absence(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nprocessor\t: 1\nmodel name\t: Other\n")
    assert cpu_name(info) == "Some CPU @ 2 GHz"
    assert cpu_name(tmp_path / "missing")


def test_versions_name_every_library_that_can_change_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from hidrop import provenance as hardware

    monkeypatch.setitem(hardware.PACKAGES, "torch", "a-package-that-is-not-there")
    found = versions()
    assert set(found) == {"python", "torch", "transformers", "lmms_eval", "hidrop"}
    assert found["torch"] is None and found["transformers"]


def test_importing_the_package_does_not_import_torch() -> None:
    import subprocess
    import sys

    code = "import evals.profiling, evals.report, sys; assert not {'torch', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
