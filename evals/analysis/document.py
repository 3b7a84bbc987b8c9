"""The document `analysis.json`: its types, how it is built, and the CSV file and text made from it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NotRequired,  # before Python 3.12 pydantic cannot read typing's TypedDict
    cast,
)

import numpy as np
from typing_extensions import TypedDict

from evals.store.json_files import FileKind
from evals.store.result_document import Interval, Provenance
from hidrop.analysis import rules
from hidrop.analysis.curves import Curve, Values
from hidrop.analysis.rules import Reading
from hidrop.analysis.suggest import Suggestion

if TYPE_CHECKING:
    from evals.analysis.run import Found

SCHEMA = 1
DIGITS = 5
LayerPart = Literal["exit", "inject", "filters"]


class CurveEntry(TypedDict):
    """One number per layer, from layer `first` on, with its 95 % interval. None: not defined in that layer."""

    first: int
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]


class ReadingEntry(TypedDict):
    """The layers that a rule derived from the curves. `support`: share of bootstrap draws that give the same layers."""

    layers: list[int]
    rule: str
    evidence: str
    range: list[Interval]
    support: float


class ScheduleEntry(TypedDict):
    """The fields of a HiDrop method."""

    name: str
    inject: int
    filters: list[int]
    keep: list[int]
    exit: int


class SuggestionEntry(TypedDict):
    """A schedule with its evidence, or the problem that prevents one. `budget`: average visual tokens per layer.

    share: the budget as a share, where each image has its own number of tokens; counts are then of a nominal image.
    """

    budget: float
    share: NotRequired[str | None]
    inject: ReadingEntry
    exit: ReadingEntry
    filters: ReadingEntry
    keep_rule: str
    problem: str | None
    schedule: ScheduleEntry | None


class SearchEntry(TypedDict):
    """Table of the scores of the suggestion and its neighbors without training."""

    samples: int
    headers: list[str]
    rows: list[list[str]]


class AnalysisDocument(Provenance):
    """The result of an analysis. `heat`: by layer, the share of samples in which a token is among the most attended.

    heat_panels, heat_samples: the grids of the tokens in `heat` (see `Panel`), and the samples whose images have them.
    Older documents lack both: their tokens are a square.
    samples: requested of each task, after the first `skipped`; probed: of all tasks, without those that `failed`.
    yaml: the suggested schedule in a matrix's format.
    """

    schema: int
    model: str
    source: str
    weights: str
    tasks: list[str]
    data: str
    protocol: str
    samples: int
    skipped: int
    seconds: float
    probes: dict[str, Any]
    command: str
    probed: int
    failed: int
    layers: int
    visual_tokens: int
    vanilla: float
    curves: dict[str, CurveEntry]
    heat: list[list[float | None]]
    heat_panels: NotRequired[list[list[list[int]]]]
    heat_samples: NotRequired[int]
    suggestion: SuggestionEntry
    yaml: str | None
    search: NotRequired[SearchEntry]


ANALYSIS = FileKind(
    "a file of the command analyze",
    AnalysisDocument,
    schema=SCHEMA,
    oldest=1,
    command="analyze",
    then="run it again, probed samples are skipped",
)


def build(found: Found, suggestion: Suggestion, made: Mapping[str, Any]) -> AnalysisDocument:
    """The document. `made`: its fields from `model` to `command`, and those of Provenance."""
    curves = found.curves
    draws = curves.draws()
    named = {name: _curve(curve, draws) for name, curve in listed(found)}
    document = {
        "schema": SCHEMA,
        **made,
        "probed": curves.samples,
        "failed": found.failed,
        "layers": curves.layers,
        "visual_tokens": curves.visual_tokens,
        "vanilla": round(float(curves.vanilla.mean()), DIGITS),
        "curves": named,
        "heat": [[_number(value) for value in row] for row in found.heat.shares],
        "heat_panels": [[list(panel) for panel in image] for image in found.heat.panels],
        "heat_samples": found.heat.samples,
        "suggestion": {
            "budget": suggestion.budget,
            "share": suggestion.share,
            **{name: _reading(getattr(suggestion, name)) for name in ("inject", "exit", "filters")},
            "keep_rule": suggestion.keep,
            "problem": suggestion.problem,
            "schedule": None if suggestion.schedule is None else _schedule(suggestion),
        },
        "yaml": suggestion.yaml() if suggestion.schedule else None,
    }
    return cast(AnalysisDocument, document)


def listed(found: Found) -> Iterator[tuple[str, Curve]]:
    """All curves with their names."""
    curves = found.curves
    yield from ((f"intra_{name}", curve) for name, curve in curves.intra.items())
    if curves.cross.samples.shape[1]:  # empty if no images could be compared
        yield "cross", curves.cross
    yield "mass", curves.mass
    yield from ((f"ilvas_{n}", curve) for n, curve in curves.ilvas.items())
    yield "ilvas", rules.combined(curves.ilvas)
    yield from ((f"exit_{share:g}", curve) for share, curve in curves.exits.items())
    yield from ((f"exit_agreement_{share:g}", curve) for share, curve in curves.exit_agreement.items())
    if curves.inject is not None:
        yield "inject", curves.inject


def _curve(curve: Curve, draws: Values) -> dict[str, Any]:
    low, high = curve.interval(draws)
    parts = {"mean": curve.mean, "low": low, "high": high}
    return {"first": curve.first, **{name: [_number(x) for x in values] for name, values in parts.items()}}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), DIGITS)


def _reading(reading: Reading) -> ReadingEntry:
    return {
        "layers": list(reading.layers),
        "rule": reading.rule,
        "evidence": reading.evidence,
        "range": [list(pair) for pair in reading.range],
        "support": round(reading.support, 3),
    }


def _schedule(suggestion: Suggestion) -> ScheduleEntry:
    assert suggestion.schedule is not None
    found = suggestion.schedule
    return {
        "name": found.name,
        "inject": found.inject,
        "filters": list(found.filters),
        "keep": list(found.keep),
        "exit": found.exit,
    }


def csv_text(document: AnalysisDocument) -> str:
    """One CSV line per curve and layer, with the mean and its 95 % interval."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["curve", "layer", "mean", "low", "high"])
    for name, curve in document["curves"].items():
        for place, values in enumerate(zip(curve["mean"], curve["low"], curve["high"], strict=True)):
            writer.writerow([name, curve["first"] + place, *("" if value is None else value for value in values)])
    return out.getvalue()


def at(document: AnalysisDocument, name: str, layer: int) -> float | None:
    """The mean of a curve in a layer; None if the curve does not cover the layer."""
    curve = document["curves"].get(name)
    place = -1 if curve is None else layer - curve["first"]
    return curve["mean"][place] if curve is not None and 0 <= place < len(curve["mean"]) else None


def explained(document: AnalysisDocument) -> list[str]:
    """The rule and evidence for each part of the schedule, one or two lines per part."""
    found, lines = document["suggestion"], []
    titles: dict[LayerPart, str] = {"exit": "exit", "inject": "injection", "filters": "filters"}
    for name, title in titles.items():
        reading = found[name]
        layers = ", ".join(map(str, reading["layers"])) or "not found"
        lines.append(f"{title}: {layers}. Rule: {reading['rule']}. {_sentence(reading['evidence'])}")
        if reading["range"]:
            ranges = ", ".join(f"{low} to {high}" if low < high else f"{low}" for low, high in reading["range"])
            lines.append(
                f"  bootstrap over images: {ranges} in 95 % of the draws, exactly this in "
                f"{100 * reading['support']:.0f} %"
            )
    counts = ", ".join(map(str, found["schedule"]["keep"])) if found["schedule"] else "none"
    of = f" of an image of {document['visual_tokens']} tokens" if found["schedule"] and found.get("share") else ""
    lines.append(f"counts: {counts}{of}. Rule: {found['keep_rule']}")
    return lines


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" if text else ""
