"""What a property of a method is, and how one is tried."""

from __future__ import annotations

import sysconfig
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from hidrop.errors import shortened
from hidrop.testing.report import Fault, Outcome, Skip

T = TypeVar("T")
# No line in these is the method's. The method itself may be installed next to them.
HIDROP, STDLIB = Path(__file__).parents[1], Path(sysconfig.get_paths()["stdlib"])
LIBRARIES = {"torch", "transformers", "numpy", "pytest", "_pytest", "pluggy", "xdist", "execnet"}
INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class Property(Generic[T]):
    """One thing that every method has to keep.

    `check` gets what the property is about (a method, or a method on a family). It raises Fault if the property does
    not hold and Skip if it has no meaning, and may return a note. `rule` says what has to hold, and `fix` what to do.
    """

    name: str
    rule: str
    fix: str
    check: Callable[[T], str | None]

    def tried(self, subject: T, family: str = "") -> Outcome:
        """The outcome. Any exception of the method's is one, too."""
        start = time.perf_counter()
        try:
            note = self.check(subject)
            status, why = ("ok", note or "")
        except Skip as reason:
            status, why = "skipped", str(reason)
        except Fault as fault:
            status, why = "failed", str(fault)
        except Exception as error:
            status, why = "failed", raised(error)
        return Outcome(self.name, family, status, why, time.perf_counter() - start)  # type: ignore[arg-type]


def raised(error: BaseException) -> str:
    """An exception in words, with the line of the method that raised it."""
    message = shortened(" ".join(str(error).split()), 400)
    return f"{type(error).__name__}: {message}{place_of(traceback.extract_tb(error.__traceback__))}"


def place_of(stack: Sequence[traceback.FrameSummary]) -> str:
    """The last line of a stack that is in nobody's library: the method's own, as " at mine.py:23 (in score)"."""
    for frame in reversed(stack):
        path = Path(frame.filename)
        if not frame.filename.startswith("<") and not in_library(path):
            return f" at {path.name}:{frame.lineno} (in {frame.name})"
    return ""


def in_library(path: Path) -> bool:
    if HIDROP in path.parents:
        return True
    if INSTALLED & {*path.parts}:
        return bool(LIBRARIES & {*path.parts})
    return STDLIB in path.parents
