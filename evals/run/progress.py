"""The progress of a run: a live view on a terminal, or plain lines in a pipe."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from evals.run.live_view import LiveView
from evals.store.result_document import CellEntry
from hidrop.visible import visible


class Progress(AbstractContextManager["Progress"]):
    """Shows the progress of a run. `sizes`: samples of each cell, by its key, if known.

    On a terminal the live view shows it, and disappears at the end. In a pipe each finished cell prints a line, and a
    long cell prints a line every `every_seconds`.
    """

    every_seconds = 15.0

    def __init__(self, console: Console, total: int, sizes: Mapping[str, int] | None = None):
        self.console, self.total = console, total
        self.view = LiveView(total, dict(sizes or {}))
        self._spoke = time.monotonic()
        self._live: Live | None = None
        if console.is_terminal and not console.quiet:
            # rich calls this for every frame, so bars and rates move without an event.
            self._live = Live(console=console, get_renderable=lambda: self.view, refresh_per_second=4, transient=True)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def model(self, name: str) -> None:
        self.view.phase(f"loading {name}")

    def sized(self, name: str, sizes: Mapping[str, int]) -> None:
        """The batch sizes that were found for a model's tasks."""
        tasks: dict[int, list[str]] = {}
        for task, size in sizes.items():
            tasks.setdefault(size, []).append(task)
        each = [f"{size} for {', '.join(names)}" if len(tasks) > 1 else str(size) for size, names in tasks.items()]
        if each:
            self._say(f"{name}: batch size {'; '.join(each)} (auto)")

    def timing(self, name: str, methods: int) -> None:
        doing = f"timing {methods} method{'s' * (methods != 1)} on {name}"
        self.view.phase(doing)
        self._say(doing)

    def started(self, key: str, answered: int) -> None:
        self._spoke = time.monotonic()
        self.view.begin(key, answered)

    def samples(self, key: str, count: int) -> None:
        self.view.count(key, count)
        if time.monotonic() - self._spoke > self.every_seconds:
            self._spoke = time.monotonic()
            self._say(f"{self._place(self.view.ended + 1)} {self.view.current()}")

    def finished(self, key: str, entry: CellEntry, *, earlier: bool) -> None:
        words = entry.get("unscored")
        self.view.end(key, words or entry["value"])
        kept = " (from an earlier run)" if earlier else ""
        failed = f", {entry['n_failed']} failed" if entry["n_failed"] else ""
        scored = words or f"{entry['metric']} {entry['value']:.2f}"
        value = f"{scored} on {entry['n']}{failed}"
        times = "" if earlier else self.view.took(entry)
        self._say(f"{self._place(self.view.ended)} {key}: {value}{kept}{f', {times}' * bool(times)}")

    def failed(self, key: str, reason: str) -> None:
        self.view.end(key, None)
        self._print(f"{self._place(self.view.ended)} {key}: failed: {reason}", style="red")

    def left(self, key: str, owner: str) -> None:
        """A cell is left to another run with --share."""
        self.view.skip(key)
        self._say(f"{self._place(self.view.ended)} {key}: left to {owner}")

    def timing_failed(self, model: str, reason: str) -> None:
        self._print(f"timing of {model} failed: {reason}", style="red")

    def _place(self, count: int) -> str:
        return f"[{count}/{self.total}]"

    def _say(self, text: str) -> None:
        if self._live is None:
            self._print(text)

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(visible(text), style=style, markup=False, highlight=False, soft_wrap=True)
