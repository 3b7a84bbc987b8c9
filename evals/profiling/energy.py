"""Energy of a request on a GPU, from NVML's counter."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any

import torch

# The counter moves several times a second on all GPUs that have it, so a second of runs is exact to some percent.
SECONDS = 1.0


def joules(device: torch.device, run: Callable[[], Any], *, seconds: float = SECONDS) -> float | None:
    """Joules of one `run()`, the mean over at least `seconds` of runs. Includes what the GPU uses when idle.

    None on a CPU, without the package nvidia-ml-py, and on a GPU without the counter (before Volta).
    """
    meter = _meter(device)
    if meter is None:
        return None
    torch.cuda.synchronize(device)
    runs, before, end = 0, meter(), time.monotonic() + seconds
    while runs == 0 or time.monotonic() < end:
        run()
        torch.cuda.synchronize(device)
        runs += 1
    return (meter() - before) / 1000 / runs


def _meter(device: torch.device) -> Callable[[], int] | None:
    """What gives the millijoules since the driver was loaded; None if nothing can."""
    if device.type != "cuda":
        return None
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        # CUDA's numbers of devices follow CUDA_VISIBLE_DEVICES, NVML's do not.
        name = str(torch.cuda.get_device_properties(device).uuid)
        handle = nvml.nvmlDeviceGetHandleByUUID(name if name.startswith(("GPU-", "MIG-")) else f"GPU-{name}")

        def meter() -> int:
            return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))

        meter()
    except Exception:  # NVML has errors of its own, and older versions of torch no uuid: energy is extra information
        return None
    return meter
