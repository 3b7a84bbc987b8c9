"""Figures of a file of bench:

request      speed-up of the whole request against its output tokens, for each method
breakdown    where the time of a request goes
possible     prefill speed-up against its limit
heat         speed-up of the whole request over batch and text, for each method and budget (sweeps)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from evals.bench.answer import captured_of, points_of, shape, vanilla_of, where
from evals.bench.breakdown import PARTS, breakdown
from evals.bench.document import BenchDocument, BenchRow
from evals.bench.latency import WORTH
from evals.profiling.record import request_ms
from evals.report.figure_style import COLOURS, hover, in_turn, inside, legend, panels_of
from evals.report.method_looks import LINES, Look, looks_of, shown_name
from hidrop.visible import visible_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "request": "Speed-up of the whole request over its output tokens (dotted: worth it above this line)",
    "breakdown": "Where the time of a request goes, as a share of vanilla's",
    "possible": "Prefill speed-up that was reached against its layerwise limit (on the line: the whole limit)",
    "heat": "Speed-up of the whole request over batch size and text tokens",
}
MOST_PANELS = 4
CURVE = 60  # lengths at which a curve is computed
CHOSEN = 128  # output tokens of a heat map, if the file has this length; else the middle one


def drawn(document: BenchDocument) -> Iterator[tuple[str, Figure]]:
    """(name, figure) pairs, one at a time: each figure is cleared before the next is drawn."""
    document = visible_values(document)
    draws = {"request": request, "breakdown": parts, "possible": possible, "heat": heat}
    return in_turn((name, partial(draw, document)) for name, draw in draws.items())


def request(document: BenchDocument) -> Figure | None:
    """One panel for each of the first points. The curve is of medians, the points have their 95 % intervals."""
    points = {point: rows for point, rows in points_of(document["rows"]).items() if rows[0]["requests"]}
    if not points:
        return None
    shown = dict(list(points.items())[:MOST_PANELS])
    figure, panels = panels_of(len(shown), share_y=True)
    for axes, (point, rows) in zip(panels, shown.items(), strict=True):
        methods = [row for row in rows if row["method"] != "vanilla"]
        looks = _looks(document["rows"])
        longest = max(one["new_tokens"] for row in rows for one in row["requests"])
        lengths = np.unique(np.geomspace(1, max(2, longest), CURVE).round())
        for row in methods:
            look, vanilla = looks[row["label"]], vanilla_of(row, rows)
            ours, theirs = (request_ms(one["ttft_ms"]["p50"], one["tpot_ms"]["p50"], lengths) for one in (row, vanilla))
            axes.plot(lengths, theirs / ours, color=look.colour, linewidth=1, linestyle=look.line)
            for one in row["requests"]:
                up = one["speed_up"]
                low, high = (up["ratio"] if end is None else end for end in (up["low"], up["high"]))
                axes.errorbar(
                    one["new_tokens"],
                    up["ratio"],
                    yerr=[[max(0.0, up["ratio"] - low)], [max(0.0, high - up["ratio"])]],
                    color=look.colour,
                    fmt=look.marker,
                    markerfacecolor=inside(look),
                    markersize=4,
                    label=row["label"],
                )
                words = f"{row['label']}, {one['new_tokens']} output tokens\n{up['ratio']:.3f} times as fast as vanilla"
                place = one["new_tokens"], up["ratio"]
                axes.plot(*place, "o", color="white", alpha=0, markersize=7, gid=hover(words))
        axes.axhline(1, color="0.5", linewidth=0.8)
        axes.axhline(WORTH, color="0.5", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlabel="output tokens", title=where(point))
    panels[0].set_ylabel("times as fast as vanilla")
    hidden = len(points) - len(shown)
    legend(figure, *panels, note=f"and {hidden} more points, in the tables" if hidden else "")
    return figure


@dataclass(frozen=True)
class _Row:
    """A row's names, as `evals.report.method_looks` reads them."""

    method: str
    label: str
    budget: str | None


def _looks(rows: Sequence[BenchRow]) -> dict[str, Look]:
    """The look of each label. A method's second and further labels (budgets) have other lines and hollow marks."""
    methods = {row["label"]: shown_name(_Row(row["method"], row["label"], row["budget"])) for row in rows}
    looks, count, found = looks_of(methods.values()), dict.fromkeys(methods.values(), 0), {}
    for label, method in methods.items():
        look, again = looks[method], count[method]
        line = LINES[(LINES.index(look.line) + again) % len(LINES)]
        found[label] = replace(look, line=line, open=look.open or again > 0)
        count[method] += 1
    return found


def parts(document: BenchDocument) -> Figure | None:
    """Stacked bars at the first point, one panel for each output length."""
    rows = next(iter(points_of(document["rows"]).values()), [])
    news = [one["new_tokens"] for one in rows[0]["requests"]][:MOST_PANELS] if rows else []
    if not news:
        return None
    figure, panels = panels_of(len(news), share_y=True)
    for axes, new in zip(panels, news, strict=True):
        for place, row in enumerate(rows):
            whole, bottom = sum(breakdown(vanilla_of(row, rows), new).values()), 0.0
            for name, taken in breakdown(row, new, captured_of(row, rows)).items():
                share, colour = 100 * taken / whole, COLOURS[PARTS.index(name)]
                bars = axes.bar(place, share, bottom=bottom, color=colour, label=name, width=0.7)
                bars[0].set_gid(hover(f"{row['label']}, {name}\n{taken:.3g} ms, {share:.1f} % of vanilla's request"))
                bottom += share
        axes.set(title=f"{where(shape(rows[0]))}\n{new} output token{'s' * (new > 1)}")
        axes.set_xticks(range(len(rows)), [row["label"] for row in rows], rotation=60, ha="right")
    panels[0].set_ylabel("% of vanilla's request")
    legend(figure, panels[0])
    return figure


def possible(document: BenchDocument) -> Figure | None:
    """One mark for each method at each point that has a layerwise limit."""
    rows = [row for row in document["rows"] if row["method"] != "vanilla" and row["ideal_speed_up"]["layerwise"]]
    if not rows:
        return None
    figure, (axes,) = panels_of(1, height=3.2)
    looks = _looks(rows)
    for label in dict.fromkeys(row["label"] for row in rows):
        own = [row for row in rows if row["label"] == label]
        axes.scatter(
            [row["ideal_speed_up"]["layerwise"] or 0 for row in own],
            [row["speed_ups"]["prefill"]["ratio"] for row in own],
            color=looks[label].colour,
            facecolor=("none" if looks[label].open else looks[label].colour),
            marker=looks[label].marker,
            s=20,
            label=label,
        )
    for row in rows:
        limit, reached = row["ideal_speed_up"]["layerwise"] or 0, row["speed_ups"]["prefill"]["ratio"]
        words = f"{row['label']}, {where(shape(row))}\nlimit {limit:.2f}, reached {reached:.2f}"
        axes.plot(limit, reached, "o", color="white", alpha=0, markersize=8, gid=hover(words))
    most = max(row["ideal_speed_up"]["layerwise"] or 0 for row in rows)
    axes.plot([1, most], [1, most], color="0.5", linewidth=0.8)
    axes.set(xlabel="layerwise limit of the prefill's speed-up", ylabel="reached")
    legend(figure, axes)
    return figure


def heat(document: BenchDocument) -> Figure | None:
    """A map for each method: batch sizes by text tokens. None for one batch size and one text."""
    images = document["rows"][0]["images"] if document["rows"] else 1
    rows = [
        row for row in document["rows"] if row["method"] != "vanilla" and row["requests"] and row["images"] == images
    ]
    batches, texts = (sorted({row[name] for row in rows}) for name in ("batch", "text_tokens"))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    if len(batches) * len(texts) < 2 or not labels:
        return None
    new = chosen_length(rows)
    figure, panels = panels_of(len(labels), height=1.2 + 0.4 * len(texts))
    grids = [_grid(rows, label, batches, texts, new) for label in labels]
    most = max(1.2, *(float(np.nanmax(grid)) for grid in grids if not np.isnan(grid).all()))
    for axes, label, grid in zip(panels, labels, grids, strict=True):
        axes.imshow(grid, cmap="PuOr", vmin=2 - most, vmax=most, aspect="auto")
        for row, column in np.ndindex(grid.shape):
            if not np.isnan(grid[row, column]):
                axes.text(column, row, f"{grid[row, column]:.2f}", ha="center", va="center", fontsize=7)
        axes.set_xticks(range(len(batches)), [str(one) for one in batches])
        axes.set_yticks(range(len(texts)), [str(one) for one in texts])
        axes.grid(visible=False)
        axes.set(title=label, xlabel="batch size")
    panels[0].set_ylabel(f"text tokens ({new} output tokens, {images} image{'s' * (images > 1)})")
    return figure


def chosen_length(rows: Sequence[BenchRow]) -> int:
    """The output length of heat maps."""
    news = [one["new_tokens"] for one in rows[0]["requests"]]
    return CHOSEN if CHOSEN in news else news[len(news) // 2]


def _grid(rows: Sequence[BenchRow], label: str, batches: list[int], texts: list[int], new: int) -> np.ndarray:
    grid = np.full((len(texts), len(batches)), np.nan)
    for row in rows:
        if row["label"] == label:
            ratio = next(one["speed_up"]["ratio"] for one in row["requests"] if one["new_tokens"] == new)
            grid[texts.index(row["text_tokens"]), batches.index(row["batch"])] = ratio
    return grid
