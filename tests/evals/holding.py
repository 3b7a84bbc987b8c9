"""A results folder that somebody else has locked."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from evals.store.lock import NAME, locked


@contextlib.contextmanager
def held_elsewhere(folder: Path, seconds: float = 60.0, *, shared: bool = False, name: str = NAME) -> Iterator[None]:
    """Another thread holds the lock during the block, but not longer than `seconds`. The kernel sees no difference."""
    begun, done = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(folder, shared=shared, name=name):
            begun.set()
            done.wait(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(60)
    try:
        yield
    finally:
        done.set()
        thread.join()
