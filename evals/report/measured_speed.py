"""Files of `bench` and `bench-train` as parts of a page.

`evals.bench.page` makes them, and `assets/timed.html.jinja` shows them: on the page of one file, on a page of several,
and next to the accuracy of results folders, whose page may not import `evals.bench`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TimedTable:
    """`sections`: the heading of some rows, such as their batch size, and the rows. An empty heading is not shown."""

    title: str
    headers: tuple[str, ...]
    sections: list[tuple[str, list[tuple[str, ...]]]]


@dataclass(frozen=True)
class TimedFile:
    """name: of the file. title: model, type and date. machine: the hardware in words.

    facts: (topic, text) pairs on how the times were measured. answers: (point, sentences) pairs. tables: the main one
    first. figures: (title, <svg>) pairs.
    """

    name: str
    title: str
    machine: str
    facts: list[tuple[str, str]]
    answers: list[tuple[str, list[str]]]
    tables: list[TimedTable]
    figures: list[tuple[str, str]]


@dataclass(frozen=True)
class MeasuredSpeed:
    """The section "Measured speed" of a page. notes: (topic, text) pairs on how to read the tables."""

    files: Sequence[TimedFile]
    notes: Sequence[tuple[str, str]]

    def machines(self) -> dict[str, list[TimedFile]]:
        """The files of each machine: times of different machines are not comparable."""
        found: dict[str, list[TimedFile]] = {}
        for file in self.files:
            found.setdefault(file.machine, []).append(file)
        return found
