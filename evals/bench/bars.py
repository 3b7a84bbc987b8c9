"""The speed that the runtime promises (`--bars`): what was measured, its interval, and the bound.

A shared machine varies by some percent from run to run, about as much as the bounds leave. A bar is missed only if its
whole 95 % interval is beyond the bound; where the interval includes the bound, more rounds can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evals.bench.answer import points_of, shape, where
from evals.plain_table import aligned
from evals.profiling.ratios import of_medians
from evals.report.units import MISSING

if TYPE_CHECKING:
    from evals.bench.document import BenchDocument, BenchRow
    from evals.profiling.ratios import RatioEntry

# The part of the layerwise limit that each method's prefill has to reach.
LAYERWISE = dict.fromkeys(("hidrop", "pdrop", "fastv", "random", "uniform"), 0.95)
LAYERWISE |= dict.fromkeys(("divprune", "sparsevlm"), 0.93)
LEAST_TOKENS = 576  # for HiDrop's bar: its cut projects all tokens, a large part of a small prefill
OTHER_FAMILIES = 0.93  # where images have their own numbers of tokens: three axes of positions, DeepStack


@dataclass(frozen=True)
class Bar:
    """A measured number with the lower or upper bound that it has to meet. `low`, `high`: its 95 % interval."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, what: str, found: RatioEntry, *, least: float | None = None, most: float | None = None) -> Bar:
        return cls(what, found["ratio"], least, most, found["low"], found["high"])

    @property
    def holds(self) -> bool:
        return self._meets(self.value, self.value)

    @property
    def missed(self) -> bool:
        """Whether all of the interval is beyond the bound; without an interval, whether the value is."""
        known = self.low is not None and self.high is not None
        return not self.holds and not (known and self._meets(self.low, self.high))

    def _meets(self, low: float | None, high: float | None) -> bool:
        """Whether some number from `low` to `high` is within the bound."""
        enough = self.least is None or (high is not None and high >= self.least)
        return enough and (self.most is None or (low is not None and low <= self.most))

    def cells(self) -> tuple[str, ...]:
        bound = f">= {self.least:g}" if self.least is not None else f"<= {self.most:g}"
        spread = MISSING if self.low is None or self.high is None else f"{self.low:.3f} to {self.high:.3f}"
        verdict = "holds" if self.holds else "MISSED" if self.missed else "within noise"
        return self.what, f"{self.value:.3f}", spread, bound, verdict


def bars(rows: Sequence[BenchRow], overhead: RatioEntry, most: float = 1.0) -> list[Bar]:
    """The bars of one point: overhead over transformers, part of the layerwise limit, selection, TPOT and KV bytes.

    `most`: the largest part of the layerwise limit that is asked for.
    """
    label = where(shape(rows[0]))
    own = [row for row in rows if not row["captured"]]
    found = [Bar.of(f"{label}: vanilla / transformers' own forward", overhead, most=1.02)]
    for row in own:
        reached = row["of_layerwise"]
        if reached is not None and row["method"] in LAYERWISE:
            least = min(most, LAYERWISE[row["method"]])
            found.append(Bar.of(f"{label}: {row['label']}, part of the layerwise limit", reached, least=least))
        if row["method"] == "hidrop":
            found += [
                Bar.of(f"{label}: {row['label']}'s selection, part of its prefill", selection(row), most=0.03),
                Bar.of(f"{label}: {row['label']}'s TPOT / vanilla's", inverse(row["speed_ups"]["tpot"]), most=1.0),
            ]
    off = sum(row["kv_bytes"] != row["kv_bytes_planned"] for row in rows)
    found.append(Bar(f"{label}: methods whose KV bytes differ from the plan", off, most=0))
    return found


def selection(row: BenchRow) -> RatioEntry:
    """The part of a prefill that choosing tokens takes."""
    samples = {name: row[name]["samples"] for name in ("selection_ms", "prefill_ms")}
    return of_medians(lambda median: median["selection_ms"] / median["prefill_ms"], samples)


def inverse(found: RatioEntry) -> RatioEntry:
    """The method's time over vanilla's, from vanilla's over the method's."""
    low, high = found["low"], found["high"]
    return {"ratio": 1 / found["ratio"], "low": high and 1 / high, "high": low and 1 / low}


def targets(rows: Sequence[BenchRow], model: str, gpu: str) -> list[Bar]:
    """The bars of captured forwards on an H200 with LLaVA-1.5-7B's sizes, 576 + 60 tokens, in bfloat16."""
    if model != "llava-1.5-7b" or "H200" not in gpu:
        return []
    found = []
    for row in rows:
        if not row["captured"] or shape(row)[:2] != (1, 60):
            continue
        label, batch, budget, ups = row["label"], row["batch"], row["budget"], row["speed_ups"]
        limit = {("vanilla", None): 13.0, ("hidrop", "48"): 5.0, ("hidrop", "64"): 5.3}.get((row["method"], budget))
        if batch == 1 and limit is not None:
            found.append(Bar(f"batch 1: {label}, ms", row["prefill_ms"]["p50"], most=limit))
            found.append(Bar(f"batch 1: {label}, part of the physical limit", row["of_physical_limit"], least=0.7))
        if row["method"] == "hidrop" and budget == "48" and batch == 16:
            found.append(Bar.of(f"batch 16: {label}, speed-up", ups["prefill"], least=4.5))
        if row["method"] == "hidrop" and budget == "48" and batch == 1:
            found.append(Bar.of(f"batch 1: {label}, TTFT speed-up", ups["ttft"], least=2.2))
    return found


def all_bars(document: BenchDocument) -> list[Bar]:
    """The bars of a whole document: those of an H200, if it has any, or else those of each point."""
    gpu = str(document["hardware"].get("gpu", ""))
    if found := targets(document["rows"], document["model"], gpu):
        return found
    points = points_of(document["rows"])
    most = OTHER_FAMILIES if document["sizes"].get("dynamic") else 1.0
    found = []
    for one in document["points"]:
        overhead = one["vanilla_over_transformers"]
        if overhead is not None:
            found += bars(points[one["images"], one["text_tokens"], one["batch"]], overhead, most)
    return found


def grown_bars(document: BenchDocument) -> list[Bar]:
    """The part of the layerwise limit that each method reaches, at each number of visual tokens and batch size."""
    found = []
    for row in document["rows"]:
        reached, tokens = row["of_layerwise"], row["images"] * document["sizes"]["visual_tokens"]
        small = row["method"] == "hidrop" and tokens < LEAST_TOKENS
        if reached is not None and row["method"] in LAYERWISE and not row["captured"] and not small:
            what = f"{tokens} visual tokens, batch {row['batch']}: {row['label']}, part of the layerwise limit"
            found.append(Bar.of(what, reached, least=LAYERWISE[row["method"]]))
    return found


def bars_text(found: Sequence[Bar]) -> str:
    return "\n".join(aligned([("bar", "measured", "95 % interval", "bound", ""), *(bar.cells() for bar in found)]))
