"""`run.py compare A B`: compare two results folders or commits, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from evals.plain_table import aligned
from evals.report.units import MISSING, fixed
from evals.store import statistics
from evals.store.folders import read_document, samples_of
from evals.store.result_document import CellEntry, ResultDocument, batch_size_of, cell_key, protocol_of
from evals.tasks.registry import add_files, known

HEADINGS = ("cell", "A", "B", "B - A", "95 % interval", "p", "gained", "lost", "same answer")


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
    for document in (first, second):
        add_files(document.get("own_tasks", {}))
    ours, theirs = ({cell_key(cell): cell for cell in document["cells"]} for document in (first, second))
    found = [
        _compared(key, Path(a), ours[key], Path(b), theirs[key], protocol_of(second, theirs[key]["task"]))
        for key in ours
        if key in theirs
    ]
    fields = (
        "protocol",
        "data_versions",
        "own_tasks",
        "limit",
        "budget_reading",
        "dtype",
        "hardware",
        "versions",
    )
    differing = [f"{f} ({first.get(f)} / {second.get(f)})" for f in fields if first.get(f) != second.get(f)]
    differing += _of_cells(first, second)
    both = [(ours[key], theirs[key]) for key in ours if key in theirs]
    sizes = {(str(batch_size_of(first, one)), str(batch_size_of(second, other))) for one, other in both}
    differing += [f"batch_size ({mine} / {other})" for mine, other in sorted(sizes) if mine != other]
    for name in ("pixels", "film"):  # of one cell: the limits of an image's pixels, the frames of a video
        pairs = {(one["model"], str(one.get(name)), str(other.get(name))) for one, other in both}
        differing += [f"{name} of {model} ({mine} / {other})" for model, mine, other in sorted(pairs) if mine != other]
    return Comparison(found, [k for k in ours if k not in theirs], [k for k in theirs if k not in ours], differing)


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


def _compared(key: str, a: Path, ours: CellEntry, b: Path, theirs: CellEntry, protocol: str) -> Compared:
    alike = ours["metric"] == theirs["metric"] and ours.get("judge") == theirs.get("judge")
    own = ours.get("own_scale", False) and theirs.get("own_scale", False)
    found = Compared(key, ours["value"], theirs["value"], alike, own)
    if not alike:
        return found
    mine, other = (samples_of(folder, cell) for folder, cell in ((a, ours), (b, theirs)))
    if not mine or not other or not known(ours["task"]):
        return found
    rows = {"a": statistics.Row(mine, None), "b": statistics.Row(other, "a")}
    against = statistics.task_stats(ours["task"], protocol, rows)["b"].get("against")
    if against is None:
        return found
    low, high = against["interval"]
    flips = () if theirs.get("lower_is_better") else ("gained", "lost")
    rest = {name: against[name] for name in ("p", *flips, "loyalty")}
    return replace(found, low=low, high=high, **rest)
