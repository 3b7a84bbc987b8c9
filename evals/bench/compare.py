"""`run.py compare A.json B.json`: two files of bench side by side: machines, versions or commits."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.bench.answer import shape, where
from evals.bench.document import BENCH, BenchDocument, BenchRow
from evals.bench.text import part
from evals.plain_table import fitted
from evals.profiling.ratios import RatioEntry, speed_up
from evals.report.provenance import facts
from evals.report.units import MISSING, millis, ratio
from evals.store.folders import of_commit

HEADINGS = (
    "method", "prefill ms A", "B", "A / B", "TTFT ms A", "B", "A / B", "TPOT ms A", "B", "A / B",
    "of physical limit A", "B", "of layerwise limit A", "B", "of decode limit A", "B", "prefill speed-up A", "B",
    "request speed-up A", "B",
)  # fmt: skip
EXPLAINED = (
    "A / B: how many times as fast B is, ± half of the 95 % interval; (noise): the interval includes 1. Of a limit:\n"
    "the part of it that was reached, each at the ceilings of its own machine; ~: above it, so noise. Speed-up: over\n"
    "vanilla of the same file. Request: with the longest output length that both have."
)
# A method and its point: "fastv" of a file with one budget is "fastv-64" of a file with several.
Key = tuple[str, tuple[int, int, int]]
FIELDS = ("model", "source", "device", "dtype", "attention", "compiled", "memory_kept")


@dataclass(frozen=True)
class Pair:
    """A method at a point that both files have. The ratios are A's time over B's."""

    label: str
    point: tuple[int, int, int]
    a: BenchRow
    b: BenchRow
    prefill: RatioEntry
    ttft: RatioEntry
    tpot: RatioEntry

    def cells(self) -> tuple[str, ...]:
        found = [self.label]
        for name, faster in (("prefill", self.prefill), ("ttft", self.ttft), ("tpot", self.tpot)):
            ours, theirs = (row[f"{name}_ms"]["p50"] for row in (self.a, self.b))  # type: ignore[literal-required]
            found += [millis(ours), millis(theirs), ratio(faster, interval=True)]
        both = (self.a, self.b)
        found += [part(row["of_physical_limit"]) for row in both]
        found += [part(row["of_ideal"]["layerwise"]) for row in both]
        found += [part(row["of_decode_limit"] or None) for row in both]
        found += [ratio(row["speed_ups"]["prefill"], interval=True) for row in both]
        requests = [{one["new_tokens"]: one["speed_up"] for one in row["requests"]} for row in both]
        longest = max(set(requests[0]) & set(requests[1]), default=0)
        found += [ratio(one[longest], interval=True) if longest else MISSING for one in requests]
        return tuple(found)


@dataclass(frozen=True)
class BenchComparison:
    pairs: list[Pair]
    only_a: list[str]
    only_b: list[str]
    machines: list[str]  # what A and B were measured on
    differing: list[str]  # settings that differ

    def text(self) -> str:
        parts = ["\n".join(self.machines)]
        for point in dict.fromkeys(pair.point for pair in self.pairs):
            own = [pair.cells() for pair in self.pairs if pair.point == point]
            parts.append("\n".join([f"{where(point)}:".capitalize(), *fitted([HEADINGS, *own])]))
        for side, keys in (("A", self.only_a), ("B", self.only_b)):
            parts += [f"only in {side}: {'; '.join(keys)}"] if keys else []
        parts += [f"different settings: {'; '.join(self.differing)}"] if self.differing else []
        return "\n\n".join([*parts, EXPLAINED])


def read(place: str) -> BenchDocument:
    """A file of bench, or one in a commit ("HEAD~3:results/bench/x.json"). Raises UserError."""
    if not Path(place).exists() and ":" in place:
        return BENCH.parsed(of_commit(*place.split(":", 1)), place)
    return BENCH.read(Path(place))


def compare(a: str, b: str) -> BenchComparison:
    """Set two files side by side. Raises UserError for a file that cannot be read."""
    first, second = read(a), read(b)
    ours, theirs = (_rows(one["rows"], other["rows"]) for one, other in ((first, second), (second, first)))
    pairs = [_pair(key, ours[key], theirs[key]) for key in ours if key in theirs]
    only_a, only_b = (_only(one, other) for one, other in ((ours, theirs), (theirs, ours)))
    pieces = [(name, first.get(name), second.get(name)) for name in FIELDS]
    pieces += [
        (f"settings.{name}", first["settings"].get(name), second["settings"].get(name))
        for name in ("steps", "repeats", "warmup", "seed", "budget", "new")
    ]
    differing = [f"{name} ({mine} / {other})" for name, mine, other in pieces if mine != other]
    fields = {pair.label: (pair.a["fields"], pair.b["fields"]) for pair in pairs}
    differing += [f"{label} ({mine} / {other})" for label, (mine, other) in fields.items() if mine != other]
    machines = [_machine(side, place, one) for side, place, one in (("A", a, first), ("B", b, second))]
    return BenchComparison(pairs, only_a, only_b, machines, differing)


def _rows(rows: Sequence[BenchRow], others: Sequence[BenchRow]) -> dict[Key, BenchRow]:
    """By label and point. A row whose method has the same fields under another label in the other file has that one."""

    def same(row: BenchRow) -> tuple[str, bool, str]:
        return row["method"], row["captured"], json.dumps(row["fields"], sort_keys=True)

    labels = {row["label"] for row in others}
    by_fields = {same(row): row["label"] for row in others}

    def shared(row: BenchRow) -> str:
        label = row["label"]
        return label if label in labels else min(label, by_fields.get(same(row), label))

    return {(shared(row), shape(row)): row for row in rows}


def _only(ours: Collection[Key], theirs: Collection[Key]) -> list[str]:
    """What one side alone has, one text for each point."""
    found: dict[tuple[int, int, int], list[str]] = {}
    for label, point in ours:
        if (label, point) not in theirs:
            found.setdefault(point, []).append(label)
    return [f"{', '.join(labels)} ({where(point)})" for point, labels in found.items()]


def _pair(key: Key, a: BenchRow, b: BenchRow) -> Pair:
    prefill, ttft, tpot = (_faster(a, b, f"{name}_ms") for name in ("prefill", "ttft", "tpot"))
    return Pair(*key, a, b, prefill, ttft, tpot)


def _faster(a: BenchRow, b: BenchRow, name: str) -> RatioEntry:
    ours, theirs = a[name], b[name]  # type: ignore[literal-required]
    if "samples" in ours and "samples" in theirs:
        return speed_up(ours["samples"], theirs["samples"], paired=False)
    return {"ratio": ours["p50"] / theirs["p50"], "low": None, "high": None}


def _machine(side: str, place: str, document: BenchDocument) -> str:
    limits, versions = document["ceilings"], document["versions"]
    return (
        f"{side}: {place}\n   {facts(document['hardware'])}; torch {versions.get('torch')}, transformers "
        f"{versions.get('transformers')}, commit {document['commit'] or MISSING}, {document['date'][:10]}\n   "
        f"copy {limits['bytes_per_second'] / 1e9:.3g} GB/s, matmul {limits['flops_per_second'] / 1e12:.3g} TFLOP/s"
    )
