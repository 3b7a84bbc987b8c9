"""What an analysis found, as plain data: `analysis.json`, and the table and text that are made from it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hidrop.analysis import rules
from hidrop.analysis.curves import Curve, Values
from hidrop.analysis.rules import Reading
from hidrop.analysis.suggest import Suggestion

if TYPE_CHECKING:
    from evals.analysis.run import Found

SCHEMA = 1
DIGITS = 5


def build(found: Found, suggestion: Suggestion, made: Mapping[str, Any]) -> dict[str, Any]:
    """The whole document. `made`: what was asked, where and with what."""
    curves = found.curves
    draws = curves.draws()
    named = {name: _curve(curve, draws) for name, curve in listed(found)}
    return {
        "schema": SCHEMA,
        **made,
        "probed": curves.samples,
        "failed": found.failed,
        "layers": curves.layers,
        "visual_tokens": curves.visual_tokens,
        "vanilla": round(float(curves.vanilla.mean()), DIGITS),
        "curves": named,
        "heat": [[_number(value) for value in row] for row in found.heat],
        "suggestion": {
            "budget": suggestion.budget,
            **{name: _reading(getattr(suggestion, name)) for name in ("inject", "exit", "filters")},
            "keep_rule": suggestion.keep,
            "problem": suggestion.problem,
            "schedule": None if suggestion.schedule is None else _schedule(suggestion),
        },
    }


def listed(found: Found) -> Iterator[tuple[str, Curve]]:
    """All curves with their names."""
    curves = found.curves
    yield from ((f"intra_{name}", curve) for name, curve in curves.intra.items())
    if curves.cross.samples.shape[1]:  # else no images could be compared
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


def _reading(reading: Reading) -> dict[str, Any]:
    return {
        "layers": list(reading.layers),
        "rule": reading.rule,
        "evidence": reading.evidence,
        "range": [list(pair) for pair in reading.range],
        "support": round(reading.support, 3),
    }


def _schedule(suggestion: Suggestion) -> dict[str, Any]:
    assert suggestion.schedule is not None
    found = suggestion.schedule
    return {
        "name": found.name,
        "inject": found.inject,
        "filters": list(found.filters),
        "keep": list(found.keep),
        "exit": found.exit,
    }


def csv_text(document: Mapping[str, Any]) -> str:
    """Every curve in every layer: curve, layer, mean and its 95 % interval."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["curve", "layer", "mean", "low", "high"])
    for name, curve in document["curves"].items():
        for place, values in enumerate(zip(curve["mean"], curve["low"], curve["high"], strict=True)):
            writer.writerow([name, curve["first"] + place, *("" if value is None else value for value in values)])
    return out.getvalue()


def at(document: Mapping[str, Any], name: str, layer: int) -> float | None:
    """The mean of a curve in a layer; None outside of it."""
    curve = document["curves"].get(name)
    place = -1 if curve is None else layer - curve["first"]
    return curve["mean"][place] if curve is not None and 0 <= place < len(curve["mean"]) else None


def explained(document: Mapping[str, Any]) -> list[str]:
    """The reasoning, a line or two for each part of the schedule."""
    found, lines = document["suggestion"], []
    for name, title in (("exit", "exit"), ("inject", "injection"), ("filters", "filters")):
        reading = found[name]
        layers = ", ".join(map(str, reading["layers"])) or "not found"
        lines.append(f"{title}: {layers}. Rule: {reading['rule']}. {_sentence(reading['evidence'])}")
        if reading["range"]:
            ranges = ", ".join(f"{low} to {high}" if low < high else f"{low}" for low, high in reading["range"])
            lines.append(
                f"  drawing the samples anew: {ranges} in 95 % of the draws, exactly this in "
                f"{100 * reading['support']:.0f} %"
            )
    counts = ", ".join(map(str, found["schedule"]["keep"])) if found["schedule"] else "none"
    lines.append(f"counts: {counts}. Rule: {found['keep_rule']}")
    return lines


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" if text else ""
