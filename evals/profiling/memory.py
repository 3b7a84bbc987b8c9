"""Bytes: the size of the KV cache, and torch's peak memory during a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def kv_bytes(cache: Any) -> int:
    """Bytes of all keys and values in a transformers cache, read off its tensors."""
    total = 0
    for layer in cache.layers:
        for tensor in (layer.keys, layer.values):
            if tensor is not None:
                total += tensor.numel() * tensor.element_size()
    return total


def resident_bytes(model: nn.Module) -> int:
    """Bytes of the model's parameters and buffers. Tensors that share memory count once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors(model)}
    return sum(storages.values())


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def peak_bytes(model: nn.Module, run: Callable[[], Any]) -> int:
    """Torch's peak memory in bytes during `run()`, including the model's weights.

    On CUDA this is the allocator's own maximum. On the CPU torch keeps no such count, so it is the running sum of all
    allocations and releases in the profiler's record, plus the weights. Tensors made before `run` (the prompt) count
    on CUDA only. Not for timed code, because recording takes time.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler writes two lines to stderr per record
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    held = peak = 0
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return resident_bytes(model) + peak
