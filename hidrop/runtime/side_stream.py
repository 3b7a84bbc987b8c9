"""Work on a side stream: with late injection the vision tower runs while the first layers see only text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from hidrop.runtime.tensor_tree import tensors_of

T = TypeVar("T")


def side_streams(device: torch.device) -> bool:
    """Whether a device can run two things at the same time."""
    return device.type == "cuda"


class SideStream(Generic[T]):
    """What `make` gives. On CUDA it is made on a stream of its own, and waited for when it is first asked for.

    On a CPU, and without `apart`, it is made at once. Either way `made()` may be called any number of times.
    """

    def __init__(self, make: Callable[[], T], device: torch.device, *, apart: bool) -> None:
        self._stream = torch.cuda.Stream(device) if apart and side_streams(device) else None
        if self._stream is None:
            self._made = make()
            return
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            self._made = make()

    def __call__(self) -> T:
        if self._stream is not None:
            main = torch.cuda.current_stream(self._stream.device)
            main.wait_stream(self._stream)
            for tensor in tensors_of(self._made):
                tensor.record_stream(main)  # its memory is the side stream's, which must not take it back too early
            self._stream = None
        return self._made
