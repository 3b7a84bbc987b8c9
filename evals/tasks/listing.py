"""All tasks that a matrix can name, with their classes: what `hidrop tasks` prints. Loads no data set."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from evals.tasks.classify import Class, classify
from evals.tasks.index import index
from evals.tasks.known_sizes import SIZES
from evals.tasks.registry import TASKS, get_task

HEADINGS = ("name", "class", "shows", "metric", "samples", "MB", "what is missing, or how it is scored")


@dataclass(frozen=True)
class Listed:
    """A task, group or tag. samples, megabytes: None where they are not known without the data."""

    name: str
    kind: Class | str
    media: str
    metric: str | None
    samples: int | None
    megabytes: int | None
    reason: str

    def cells(self) -> tuple[str, ...]:
        numbers = ("-" if n is None else f"{n:,}" for n in (self.samples, self.megabytes))
        return (self.name, self.kind, self.media, self.metric or "-", *numbers, self.reason)


def listed() -> list[Listed]:
    """Every name: first-class tasks, then lmms-eval's in alphabetical order, then its groups and tags."""
    with _uncollected():
        return [*_first_class(), *_official(), *_groups()]


def chosen(names: Iterable[Listed], grep: str | None = None, kind: str | None = None) -> list[Listed]:
    """Those whose name, class or reason contains `grep` (capitals aside), and whose class is `kind`."""
    found, wanted = (one for one in names if kind in (None, one.kind)), (grep or "").lower()
    return [one for one in found if wanted in f"{one.name}\n{one.kind}\n{one.reason}".lower()]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """A block without garbage collection, which would take a fifth of the time: 500 parsed modules are many objects."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _first_class() -> Iterator[Listed]:
    for name in TASKS:
        task = get_task(name)
        protocols, scored = ", ".join(task.protocols), f"; {task.unscored}" if task.unscored else ""
        reason = f"{task.title}: protocols {protocols}{scored}"
        media = "video" if task.filmed else "image"
        yield Listed(name, "first-class", media, task.official, task.source.rows, task.source.megabytes, reason)


def _official() -> Iterator[Listed]:
    for name, entry in sorted(index().tasks.items()):
        if name in TASKS:
            continue
        found = classify(entry)
        rows, megabytes = SIZES.get(name, (None, None))
        reason = found.reason
        if found.packages:
            reason = f"pip install {' '.join(found.packages)}: {reason}"
        elif found.kind == "runs here" and found.media == "text":
            reason = "asks no images: there is nothing to reduce"
        yield Listed(name, found.kind, found.media, found.metric, rows, megabytes, reason)


def _groups() -> Iterator[Listed]:
    known = index()
    groups = {name: entry.members for name, entry in known.entries.items() if entry.kind == "group"}
    for name, members in sorted({**groups, **known.tags}.items()):
        kind = "group" if name in groups else "tag"
        if lacking := known.lacking(name):  # lmms-eval's own file names a task that it does not have
            yield Listed(name, kind, "-", None, None, None, f"broken in lmms-eval: it has no task '{lacking}'")
            continue
        tasks = known.expanded(name)
        yield Listed(name, kind, "-", None, None, None, f"{len(tasks)} tasks: {_few(tasks or members)}")


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if names[3:] else "")


def counts(found: Iterable[Listed]) -> dict[str, int]:
    """The number of names of each class, in the order of their first appearance."""
    number: dict[str, int] = {}
    for one in found:
        number[one.kind] = number.get(one.kind, 0) + 1
    return number
