"""Ctrl-C: the first one stops behind the batch that is running, the second one at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def gently() -> Iterator[Callable[[], None]]:
    """Yields what to call between batches: it raises KeyboardInterrupt once an interrupt has come.

    Outside the main thread signals are somebody else's, and nothing is changed.
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
