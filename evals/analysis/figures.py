"""Figures of an analysis document: similarities, masking, ILVAS, attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evals.analysis.document import AnalysisDocument, LayerPart
from evals.report.figure_style import COLOURS, in_turn, legend, panels_of, saved

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES = {
    "similarity": "Similarity of a token's states in adjacent layers, and of the instruction's states with two images",
    "masking": "Scores and answers without training when visual tokens leave before a layer or enter before it",
    "ilvas": "Agreement of later layers with the tokens that a layer attends to most",
    "attention": "Attention of the last token, and the positions of the most attended tokens in the image",
}
HEAT_MAPS, MOST_PANELS = 4, 20  # layers that are mapped, and maps of a figure
MARKS: dict[LayerPart, str] = {"inject": "0.25", "exit": COLOURS[3], "filters": "0.6"}


def write(document: AnalysisDocument, folder: Path) -> list[Path]:
    """Write all figures into `folder`; return their paths."""
    return saved(drawn(document), folder)


def drawn(document: AnalysisDocument) -> Iterator[tuple[str, Figure]]:
    """(name, figure) pairs, one at a time: each figure is cleared before the next is drawn."""
    draws = {"similarity": similarity, "masking": masking, "ilvas": ilvas, "attention": attention}
    return in_turn((name, partial(draw, document)) for name, draw in draws.items())


def similarity(document: AnalysisDocument) -> Figure:
    figure, (intra, cross) = panels_of(2)
    for place, name in enumerate(("system", "visual", "text")):
        _line(intra, document, f"intra_{name}", COLOURS[place], label=f"{name} tokens")
    intra.set(xlabel="layer l", ylabel="cosine of states after l and l + 1")
    _line(cross, document, "cross", COLOURS[4], label="instruction, with another image")
    cross.set(xlabel="layer", ylabel="cosine to states with reference image")
    for axes in (intra, cross):
        _marks(axes, document, "inject")
    legend(figure, intra, cross)
    return figure


def masking(document: AnalysisDocument) -> Figure:
    figure, (leave, agree, enter) = panels_of(3, share_y=True)
    shares = [name.removeprefix("exit_") for name in document["curves"] if name.startswith("exit_")]
    for place, share in enumerate(name for name in shares if not name.startswith("agreement")):
        label = f"{100 * float(share):g} % of the tokens"
        _line(leave, document, f"exit_{share}", COLOURS[place], label=label)
        _line(agree, document, f"exit_agreement_{share}", COLOURS[place], label=label)
    _line(enter, document, "inject", COLOURS[5], label="all enter")
    for axes in (leave, enter):
        axes.axhline(document["vanilla"], color="0.3", linewidth=0.8, linestyle=":", label="unreduced")
    leave.set(xlabel="tokens leave before layer", ylabel="share of samples")
    agree.set(xlabel="tokens leave before layer")
    enter.set(xlabel="tokens enter before layer")
    for axes, title in ((leave, "right"), (agree, "same answer as unreduced"), (enter, "right")):
        axes.set_title(title, fontsize=8)
    _marks(leave, document, "exit")
    _marks(enter, document, "inject")
    legend(figure, leave, agree, enter)
    return figure


def ilvas(document: AnalysisDocument) -> Figure:
    figure, (axes,) = panels_of(1)
    windows = [name for name in document["curves"] if name.startswith("ilvas_")]
    for place, name in enumerate(windows):
        _line(axes, document, name, COLOURS[place], label=f"n = {name.removeprefix('ilvas_')}", faint=True)
    _line(axes, document, "ilvas", COLOURS[-1], label="mean")
    found = document["suggestion"]
    if found["inject"]["layers"] and found["exit"]["layers"]:
        axes.axvspan(found["inject"]["layers"][0], found["exit"]["layers"][0], color="0.92", zorder=0, label="window")
    _marks(axes, document, "filters")
    axes.set(xlabel="layer l", ylabel="ILVAS(l, l + n)")
    legend(figure, axes)
    return figure


def attention(document: AnalysisDocument) -> Figure:
    """The attention on visual tokens, and for some layers a map of the most attended ones, grid by grid."""
    heat = np.array([[np.nan if x is None else x for x in row] for row in document["heat"]])
    maps = maps_of(document) if heat.size and not np.isnan(heat).any() else []
    shown = _shown(document, max(1, min(HEAT_MAPS, MOST_PANELS // len(maps)))) if maps else []
    figure, (mass, *panels) = panels_of(1 + len(shown) * len(maps))
    _line(mass, document, "mass", COLOURS[1], label="attention on visual tokens")
    mass.set(xlabel="layer", ylabel="share of the last token's attention", ylim=(0, None))
    largest = float(heat.max()) if maps else 1.0
    for axes, (layer, tokens) in zip(panels, ((layer, one) for layer in shown for one in maps), strict=True):
        seen = heat[layer - 1][tokens]
        axes.imshow(seen, cmap="viridis", vmin=0, vmax=largest)
        axes.set_title(f"layer {layer}: chosen in up to {100 * seen.max():.0f} %", fontsize=7)
        axes.set_axis_off()
    samples = document.get("heat_samples", 0)
    if maps and 0 < samples < document["probed"]:
        mass.set_title(f"maps: the {samples} of {document['probed']} samples whose images have this shape", fontsize=7)
    return figure


def maps_of(document: AnalysisDocument) -> list[NDArray[np.int64]]:
    """The tokens of each map, (rows, columns): a grid, or a frame of one. At most MOST_PANELS.

    Tokens that are no places of an image are left out. An older document has one square.
    """
    side = round(document["visual_tokens"] ** 0.5)
    square = [[[1, side, side, 0]]] if side * side == document["visual_tokens"] else []
    found, start = list[NDArray[np.int64]](), 0
    for frames, rows, columns, others in (panel for image in document.get("heat_panels", square) for panel in image):
        for _ in range(frames):
            count = rows * (columns + others)
            if columns:
                found.append(np.arange(start, start + count).reshape(rows, -1)[:, :columns])
            start += count
    return found[:MOST_PANELS]


def _shown(document: AnalysisDocument, count: int) -> Sequence[int]:
    """`count` layers to map: those after the filters, filled up with layers spread over the depth."""
    filters = [layer + 1 for layer in document["suggestion"]["filters"]["layers"]]
    spread = np.linspace(1, document["layers"], HEAT_MAPS).round().astype(int).tolist()
    chosen = list(dict.fromkeys([*filters, *spread]))
    return sorted(chosen[:count])


def _line(axes: Axes, document: AnalysisDocument, name: str, colour: str, *, label: str, faint: bool = False) -> None:
    """Draw a curve with its interval."""
    from matplotlib.ticker import MaxNLocator

    curve = document["curves"].get(name)
    if curve is None:
        return
    parts = curve["mean"], curve["low"], curve["high"]
    mean, low, high = (np.array([np.nan if x is None else x for x in values]) for values in parts)
    layers = np.arange(curve["first"], curve["first"] + len(mean))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    alpha = 0.45 if faint else 1.0
    axes.plot(layers, mean, color=colour, linewidth=1.2, marker=".", markersize=3, alpha=alpha, label=label)
    axes.fill_between(layers, low, high, color=colour, alpha=0.15 * alpha, linewidth=0)


def _marks(axes: Axes, document: AnalysisDocument, name: LayerPart) -> None:
    """Draw a vertical line at each suggested layer."""
    layers = document["suggestion"][name]["layers"]
    label = f"suggested {name}: {', '.join(map(str, layers))}"
    for layer in layers:
        axes.axvline(layer, color=MARKS[name], linewidth=1, linestyle="--", label=label, zorder=0.5)
