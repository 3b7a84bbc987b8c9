"""`run.py compare A B`: compare two results folders or commits, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from evals.plain_table import aligned
from evals.report.units import MISSING, fixed
from evals.store import statistics
from evals.store.folders import read_document, samples_of
from evals.store.result_document import CellEntry, cell_key, protocol_of

HEADINGS = ("cell", "A", "B", "B - A", "95 % interval", "p", "gained", "lost", "same answer")


@dataclass(frozen=True)
class Compared:
    """A cell in both. `low` to `loyalty` are None if the sides' samples differ or one side's samples are missing."""

    key: str
    a: float | None
    b: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    gained: int | None = None
    lost: int | None = None
    loyalty: float | None = None

    def cells(self) -> tuple[str, ...]:
        known = self.low is not None
        return (
            self.key,
            fixed(self.a, 2),
            fixed(self.b, 2),
            MISSING if self.a is None or self.b is None else f"{self.b - self.a:+.2f}",
            f"[{self.low:+.2f}, {self.high:+.2f}]" if known else MISSING,
            f"{self.p:.3g}" if known else MISSING,
            f"+{self.gained}" if known else MISSING,
            f"-{self.lost}" if known else MISSING,
            f"{self.loyalty:.1f} %" if known else MISSING,
        )


@dataclass(frozen=True)
class Comparison:
    cells: list[Compared]
    only_a: list[str]
    only_b: list[str]
    differing: list[str]  # settings that differ: protocol, limit, machine, versions, ...

    def text(self) -> str:
        parts = ["\n".join(aligned([HEADINGS, *(cell.cells() for cell in self.cells)]))]
        parts += [
            f"only in {side}: {', '.join(keys)}" for side, keys in (("A", self.only_a), ("B", self.only_b)) if keys
        ]
        parts += [f"different settings: {'; '.join(self.differing)}"] if self.differing else []
        paired = sum(cell.low is not None for cell in self.cells)
        parts.append(
            f"{len(self.cells)} cells in both, {paired} of them sample by sample (paired bootstrap over "
            "images, exact McNemar test, no correction for multiple comparisons)"
        )
        return "\n\n".join(parts)


def compare(a: str, b: str) -> Comparison:
    """Compare two results folders or commits. Raises UserError if one has no results."""
    first, second = read_document(a), read_document(b)
    ours, theirs = ({cell_key(cell): cell for cell in document["cells"]} for document in (first, second))
    found = [
        _compared(key, Path(a), ours[key], Path(b), theirs[key], protocol_of(second, theirs[key]["task"]))
        for key in ours
        if key in theirs
    ]
    fields = (
        "protocol",
        "protocols",
        "data_versions",
        "limit",
        "budget_reading",
        "dtype",
        "batch_size",
        "hardware",
        "versions",
    )
    differing = [f"{f} ({first.get(f)} / {second.get(f)})" for f in fields if first.get(f) != second.get(f)]
    both = [(ours[key], theirs[key]) for key in ours if key in theirs]
    for name in ("pixels", "film"):  # of one cell: the limits of an image's pixels, the frames of a video
        pairs = {(one["model"], str(one.get(name)), str(other.get(name))) for one, other in both}
        differing += [f"{name} of {model} ({mine} / {other})" for model, mine, other in sorted(pairs) if mine != other]
    return Comparison(found, [k for k in ours if k not in theirs], [k for k in theirs if k not in ours], differing)


def _compared(key: str, a: Path, ours: CellEntry, b: Path, theirs: CellEntry, protocol: str) -> Compared:
    mine, other = (samples_of(folder, cell) for folder, cell in ((a, ours), (b, theirs)))
    if not mine or not other:
        return Compared(key, ours["value"], theirs["value"])
    rows = {"a": statistics.Row(mine, None), "b": statistics.Row(other, "a")}
    against = statistics.task_stats(ours["task"], protocol, rows)["b"].get("against")
    if against is None:
        return Compared(key, ours["value"], theirs["value"])
    low, high = against["interval"]
    rest = {name: against[name] for name in ("p", "gained", "lost", "loyalty")}
    return Compared(key, ours["value"], theirs["value"], low, high, **rest)
