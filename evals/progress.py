"""What a user sees while a matrix runs: a live line on a terminal, plain lines in a pipe, never both."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.status import Status


class Progress(AbstractContextManager["Progress"]):
    """Lines for cells that begin and end, and between them how far the current one is."""

    every_seconds = 15.0

    def __init__(self, console: Console, total: int):
        self.console, self.total = console, total
        self.count = 0
        self._samples = 0
        self._already = 0
        self._began = self._spoke = time.monotonic()
        self._live = Status("starting", console=console) if console.is_terminal else None

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
        self._now(f"loading {name}")

    def timing(self, name: str, methods: int) -> None:
        self._now(f"timing {methods} methods on {name}", speak=True)

    def started(self, key: str, answered: int) -> None:
        self._samples, self._already = answered, answered
        self._began = self._spoke = time.monotonic()
        self._now(f"{self._place(self.count + 1)} {key}" + (f", {answered} samples done before" if answered else ""))

    def samples(self, key: str, count: int) -> None:
        self._samples += count
        now = time.monotonic()
        if self._live or now - self._spoke > self.every_seconds:
            self._spoke = now
            rate = (self._samples - self._already) / max(now - self._began, 1e-9)
            self._now(f"{self._place(self.count + 1)} {key}: {self._samples} samples, {rate:.1f}/s", speak=True)

    def finished(self, key: str, entry: dict[str, Any], *, earlier: bool) -> None:
        self.count += 1
        kept = " (from an earlier run)" if earlier else ""
        failed = f", {entry['n_failed']} failed" if entry["n_failed"] else ""
        value = f"{entry['metric']} {entry['value']:.2f} on {entry['n']}{failed}"
        self._print(f"{self._place(self.count)} {key}: {value}{kept}")

    def failed(self, key: str, reason: str) -> None:
        self.count += 1
        self._print(f"{self._place(self.count)} {key}: failed: {reason}", style="red")

    def timing_failed(self, model: str, reason: str) -> None:
        self._print(f"timing of {model} failed: {reason}", style="red")

    def _place(self, count: int) -> str:
        return f"[{count}/{self.total}]"

    def _now(self, text: str, *, speak: bool = False) -> None:
        if self._live:
            self._live.update(text.replace("[", "\\["))
        elif speak:
            self._print(text)

    def _print(self, text: str, style: str | None = None) -> None:
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
