"""Timestamps on the device that does the work: CUDA events on a GPU, the performance counter elsewhere."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch


class Clock:
    """Marks moments on a device and gives the milliseconds between them.

    On CUDA a mark is an event in the current stream. Nothing waits between marks, so the launches of several steps
    overlap with their execution as they do in normal use. `start` waits for the device first, so that earlier work
    is not counted.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.device = device

    def start(self) -> Any:
        """Mark a moment at which the device is idle."""
        if self.cuda:
            torch.cuda.synchronize(self.device)
        return self.mark()

    def mark(self) -> Any:
        """Mark the moment at which the device has finished all work given to it so far."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def between(self, marks: list[Any]) -> list[float]:
        """Milliseconds from each mark to the next one. Waits for the last mark."""
        if not self.cuda:
            return [1000.0 * (b - a) for a, b in pairwise(marks)]
        marks[-1].synchronize()
        return [a.elapsed_time(b) for a, b in pairwise(marks)]


@contextmanager
def no_collector() -> Iterator[None]:
    """Keep Python's cyclic garbage collector out of the timings inside the block."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
