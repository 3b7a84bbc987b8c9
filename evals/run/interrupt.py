"""Ctrl-C: the first one stops after the batch that is running, the second one stops at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def gently() -> Iterator[Callable[[], None]]:
    """Yields a function to call between batches. It raises KeyboardInterrupt after an interrupt.

    Does nothing outside the main thread, where Python allows no signal handlers.
    """
    asked = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("stopping after this batch; interrupt once more to stop at once", file=sys.stderr, flush=True)

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, stop)
    except ValueError:
        yield check
        return
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
