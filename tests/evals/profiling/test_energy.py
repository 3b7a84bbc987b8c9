"""Joules of a run, from a counter as NVML's."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evals.profiling.energy import joules

CUDA = torch.device("cuda")


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU whose counter is in "millijoules"; "asked" are the names under which it was looked for."""
    state: dict[str, Any] = {"millijoules": 5_000, "asked": []}
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=state["asked"].append,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: state["millijoules"],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-ab"))
    return state


def test_energy_is_the_mean_over_the_runs(counter: dict[str, Any]) -> None:
    runs = []

    def run() -> None:
        runs.append(1)
        counter["millijoules"] += 1500

    assert joules(CUDA, run, seconds=0.01) == 1.5
    assert len(runs) > 1 and counter["asked"] == ["GPU-12-ab"]
    runs.clear()
    assert joules(CUDA, run, seconds=0) == 1.5
    assert len(runs) == 1


def test_without_a_counter_there_is_no_energy_and_nothing_runs(
    counter: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> None:
        raise AssertionError("ran")

    assert joules(torch.device("cpu"), never) is None

    def unsupported(handle: Any) -> int:
        raise RuntimeError("Not Supported")

    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetTotalEnergyConsumption", unsupported)
    assert joules(CUDA, never) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert joules(CUDA, never) is None
