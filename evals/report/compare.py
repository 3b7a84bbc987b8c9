"""`run.py compare A B`: compare two results folders or commits, cell by cell.

Samples come from the journals, or from the table that `export` writes (`evals.store.sample_table`), which committed
results can keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from evals.plain_table import fitted, wrapped
from evals.report.provenance import facts, sessions_of
from evals.report.units import MISSING, faster_text, fixed, millis
from evals.store import sample_table, statistics
from evals.store.folders import read_document, samples_of
from evals.store.records import ScoredAnswer
from evals.store.result_document import (
    CellEntry,
    ProfileEntry,
    ResultDocument,
    batch_size_of,
    cell_key,
    protocol_of,
)
from evals.tasks.registry import add_files, known
from hidrop.errors import some_of

HEADINGS = ("cell", "A", "B", "B - A", "95 % interval", "p", "gained", "lost", "same answer")
TIMES = ("prefill_ms", "ttft_ms", "decode_ms")
TIME_HEADINGS = ("row", "prefill ms A", "B", "A / B", "TTFT ms A", "B", "A / B", "decode ms A", "B", "A / B")
LISTED = 3  # names of a folded list


@dataclass(frozen=True)
class Compared:
    """A cell in both. `low` to `loyalty` are None if the sides' samples differ or one side's samples are missing.

    So they are if the sides' metrics or judges differ (`alike` is False): then the values have no difference either.
    p, gained, lost: None without a score of each sample. gained and lost are None if smaller is better, too.
    A user's own task whose YAML file is not there any more has values and their difference only.
    own_scale: the values are not 0 to 100 but what lmms-eval's task gives.
    """

    key: str
    a: float | None
    b: float | None
    alike: bool = True
    own_scale: bool = False
    low: float | None = None
    high: float | None = None
    p: float | None = None
    gained: int | None = None
    lost: int | None = None
    loyalty: float | None = None

    def cells(self) -> tuple[str, ...]:
        a, b, low, high = self.a, self.b, self.low, self.high
        digits = 4 if self.own_scale and all(value is None or abs(value) <= 1 for value in (a, b)) else 2
        return (
            self.key,
            fixed(a, digits),
            fixed(b, digits),
            MISSING if a is None or b is None or not self.alike else f"{b - a:+.{digits}f}",
            MISSING if low is None or high is None else f"[{low:+.{digits}f}, {high:+.{digits}f}]",
            MISSING if self.p is None else f"{self.p:.3g}",
            MISSING if self.gained is None else f"+{self.gained}",
            MISSING if self.lost is None else f"-{self.lost}",
            MISSING if self.loyalty is None else f"{self.loyalty:.1f} %",
        )


@dataclass(frozen=True)
class Timed:
    """A row's medians in both, in milliseconds, by the names of `TIMES`. key: model/label, with the batch."""

    key: str
    a: dict[str, float]
    b: dict[str, float]

    def cells(self) -> tuple[str, ...]:
        found = [self.key]
        for name in TIMES:
            mine, other = self.a[name], self.b[name]
            found += [millis(mine), millis(other), faster_text(mine / other if other else None)]
        return tuple(found)


@dataclass(frozen=True)
class Comparison:
    """commits, versions, machines: what the answers of A and B were made with, where it differs.

    differing: settings that differ: protocol, limit, dtype, ...
    """

    cells: list[Compared]
    only_a: list[str]
    only_b: list[str]
    differing: list[str]
    timings: list[Timed] = field(default_factory=list)
    made: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Tables, then what differs, then how to read it."""
        parts = ["\n".join(fitted([HEADINGS, *(cell.cells() for cell in self.cells)]))]
        if self.timings:
            rows = fitted([TIME_HEADINGS, *(one.cells() for one in self.timings)])
            parts.append("\n".join(["Timings, medians (A / B: how many times as fast B is):", *rows]))
        parts += [f"only in {side}: {folded(keys)}" for side, keys in (("A", self.only_a), ("B", self.only_b)) if keys]
        parts += ["\n".join(line for one in self.made for line in wrapped(one))] if self.made else []
        parts += ["\n".join(wrapped(f"different settings: {'; '.join(self.differing)}"))] if self.differing else []
        paired = sum(cell.low is not None for cell in self.cells)
        way = "paired bootstrap over images, exact McNemar test, no correction for multiple comparisons"
        parts.append("\n".join(wrapped(f"{len(self.cells)} cells in both, {paired} of them sample by sample ({way})")))
        return "\n\n".join(parts)


def folded(keys: Sequence[str]) -> str:
    """Cells in a line: rows with their tasks, the first `LISTED` of them; rows with the same tasks are together.

    For example: 6 cells: gqa, pope of m/fastv, m/random; gqa of m/dart
    """
    rows: dict[str, list[str]] = {}
    for key in keys:
        row, _, task = key.rpartition("/")
        rows.setdefault(row, []).append(task)
    by_tasks: dict[str, list[str]] = {}
    for row, tasks in rows.items():
        by_tasks.setdefault(", ".join(tasks), []).append(row)
    parts = [f"{tasks} of {some_of(own, LISTED)}" for tasks, own in by_tasks.items()]
    return f"{len(keys)} cells: {'; '.join(parts)}" if len(keys) > 1 else keys[0]


class Side:
    """One of the two results: its document, and its samples from journals or from an exported table."""

    def __init__(self, place: str):
        self.place, self.document = place, read_document(place)

    @cached_property
    def table(self) -> sample_table.SampleTable | None:
        """The exported samples, read when a journal is missing."""
        return sample_table.read(self.place)

    def samples(self, cell: CellEntry) -> list[ScoredAnswer] | None:
        """The samples of a cell; None if neither a journal nor the table has them."""
        if (found := samples_of(Path(self.place), cell)) is not None:
            return found
        protocol = protocol_of(self.document, cell["task"])
        return self.table.of(cell, protocol) if self.table and cell["id"] and known(cell["task"]) else None


def compare(a: str, b: str) -> Comparison:
    """Compare two results folders or commits. Raises UserError if one has no results."""
    one, other = Side(a), Side(b)
    first, second = one.document, other.document
    for document in (first, second):
        add_files(document.get("own_tasks", {}))
    ours, theirs = ({cell_key(cell): cell for cell in document["cells"]} for document in (first, second))
    found = [_compared(key, one, ours[key], other, theirs[key]) for key in ours if key in theirs]
    fields = ("protocol", "data_versions", "own_tasks", "limit", "budget_reading", "dtype")
    differing = [f"{f} ({first.get(f)} / {second.get(f)})" for f in fields if first.get(f) != second.get(f)]
    differing += _of_cells(first, second)
    both = [(ours[key], theirs[key]) for key in ours if key in theirs]
    sizes = {(str(batch_size_of(first, mine)), str(batch_size_of(second, its))) for mine, its in both}
    differing += [f"batch_size ({mine} / {its})" for mine, its in sorted(sizes) if mine != its]
    for name in ("pixels", "film"):  # of one cell: the limits of an image's pixels, the frames of a video
        pairs = {(mine["model"], str(mine.get(name)), str(its.get(name))) for mine, its in both}
        differing += [f"{name} of {model} ({mine} / {its})" for model, mine, its in sorted(pairs) if mine != its]
    only_a, only_b = [k for k in ours if k not in theirs], [k for k in theirs if k not in ours]
    return Comparison(found, only_a, only_b, differing, _timings(first, second), made_with(first, second))


def _timings(first: ResultDocument, second: ResultDocument) -> list[Timed]:
    """The rows that were timed in both at one batch size. A row with another prompt or answer length is left out."""

    def timed(document: ResultDocument) -> dict[tuple[Any, ...], ProfileEntry]:
        return {
            (one["model"], one["label"], one["batch"], one["text_tokens"], one["new_tokens"]): one
            for one in document["profiles"]
        }

    ours, theirs = timed(first), timed(second)
    several = len({key[2] for key in ours}) > 1
    found = []
    for key in ours:
        if key in theirs:
            medians = [
                {name: float(side[key][name]["median"]) for name in TIMES}  # type: ignore[literal-required]
                for side in (ours, theirs)
            ]
            found.append(Timed("/".join(key[:2]) + (f", batch {key[2]}" if several else ""), *medians))
    return found


def made_with(first: ResultDocument, second: ResultDocument) -> list[str]:
    """The commits, versions and machines of the answers, a line for each that differs: "commit: A 1a2b, B 3c4d"."""
    sides = [sessions_of(document) for document in (first, second)]
    names = dict.fromkeys(name for sessions in sides for one in sessions for name in one["versions"])
    pieces = {"commit": [[one["commit"] for one in sessions] for sessions in sides]}
    pieces |= {name: [[one["versions"].get(name) for one in sessions] for sessions in sides] for name in names}
    pieces["machine"] = [[facts(one["hardware"]) for one in sessions] for sessions in sides]
    found = []
    for name, (mine, other) in pieces.items():
        if set(mine) != set(other):
            found.append(f"{name}: A {_each(mine)}; B {_each(other)}")
    return found


def _each(values: Iterable[str | None]) -> str:
    return " and ".join(dict.fromkeys(value or "unknown" for value in values))


def _of_cells(first: ResultDocument, second: ResultDocument) -> list[str]:
    """The protocols, metrics and judges that differ, each with its tasks or cells.

    A protocol is left out where it differs as the documents' own do, which are named already.
    """
    whole = first["protocol"], second["protocol"]
    theirs = {cell_key(cell): cell for cell in second["cells"]}
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for cell in first["cells"]:
        key, task = cell_key(cell), cell["task"]
        if (other := theirs.get(key)) is None:
            continue
        protocols = protocol_of(first, task), protocol_of(second, task)
        if protocols[0] != protocols[1] and protocols != whole:
            found.setdefault(("protocol", *protocols), {})[task] = None
        for name, mine, its in (
            ("metric", cell["metric"], other["metric"]),
            ("judge", cell.get("judge", "none"), other.get("judge", "none")),
        ):
            if mine != its:
                found.setdefault((name, mine, its), {})[key] = None
    return [f"{name} of {', '.join(places)} ({mine} / {its})" for (name, mine, its), places in found.items()]


def _compared(key: str, a: Side, ours: CellEntry, b: Side, theirs: CellEntry) -> Compared:
    alike = ours["metric"] == theirs["metric"] and ours.get("judge") == theirs.get("judge")
    own = ours.get("own_scale", False) and theirs.get("own_scale", False)
    found = Compared(key, ours["value"], theirs["value"], alike, own)
    if not alike:
        return found
    mine, other = a.samples(ours), b.samples(theirs)
    if not mine or not other or not known(ours["task"]):
        return found
    rows = {"a": statistics.Row(mine, None), "b": statistics.Row(other, "a")}
    protocol = protocol_of(b.document, theirs["task"])
    against: Mapping[str, Any] | None = statistics.task_stats(ours["task"], protocol, rows)["b"].get("against")
    if against is None:
        return found
    low, high = against["interval"]
    flips = () if theirs.get("lower_is_better") else ("gained", "lost")
    rest = {name: against[name] for name in ("p", *flips, "loyalty")}
    return replace(found, low=low, high=high, **rest)
