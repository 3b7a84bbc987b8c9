"""Style and saving of all figures. The same numbers give the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.report.embedded import inert, named
from evals.report.method_looks import Look
from hidrop.atomic_file import make_folder, write_atomically
from hidrop.regular_files import own_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which is safe for color-blind readers. Markers extend it to more methods.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: Any = {
    "svg.hashsalt": "hidrop",
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 7,
}
HOVER = re.compile(r'<g id="hover ([^"]*)">')
# By file type. The date is removed, so that the same document gives the same bytes.
METADATA: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def saved(figures: Iterable[tuple[str, Figure]], folder: Path) -> list[Path]:
    """Save each (name, figure) into `folder` in every file type of METADATA; return the paths."""
    make_folder(own_folder(folder))
    paths = []
    for name, figure in figures:
        for kind, metadata in METADATA.items():
            path = folder / f"{name}.{kind}"
            with styled():
                drawn = io.BytesIO()
                figure.savefig(drawn, format=kind, bbox_inches="tight", metadata=metadata)
            content = drawn.getvalue()
            write_atomically(path, with_titles(content.decode()).encode() if kind == "svg" else content)
            paths.append(path)
    return paths


def in_turn(drawings: Iterable[tuple[str, Callable[[], Figure | None]]]) -> Iterator[tuple[str, Figure]]:
    """Draw (name, drawing) pairs one at a time; those with nothing to show are left out.

    Each figure is cleared before the next is drawn.
    """
    for name, draw in drawings:
        with styled():
            figure = draw()
        if figure is not None:
            yield name, figure
            figure.clear()


@contextmanager
def styled() -> Iterator[None]:
    """Apply the project's style to figures drawn or saved inside the block.

    A generator must not yield inside it: the style lasts until the generator is collected, which may be while another
    figure is drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import rc_context

    with rc_context(STYLE):
        yield


def svg(figure: Figure, name: str) -> str:
    """A figure as an <svg> element for an HTML page. `name`: of no other figure of the page."""
    text = io.StringIO()
    with styled():
        figure.savefig(text, format="svg", bbox_inches="tight", metadata=METADATA["svg"])
    return named(inert(with_titles(text.getvalue()[text.getvalue().index("<svg") :])), name)


def hover(words: str) -> str:
    """The `gid` of an artist that shows these words while a pointer is over it. Lines are separated by "\\n"."""
    return f"hover {words}"


def with_titles(svg: str) -> str:
    """A drawing of matplotlib with the words of `hover` as <title> elements, which browsers show without a script."""
    return HOVER.sub(r'<g class="point"><title>\1</title>', svg)


def panels_of(
    count: int, *, share_y: bool = False, width: float = 0.0, height: float = 2.8, columns: int = 0
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, in lines of at most `columns` (0: all in one line).

    width: inches of a panel (0: 2.6, and 3.6 for a panel alone). height: inches of a line.
    """
    from matplotlib.figure import Figure

    across = min(count, columns or count)
    lines = -(-count // across)
    size = (width * across if width else max(3.6, 2.6 * across), height * lines)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, across, sharey=share_y, squeeze=False).ravel()
    for rest in axes[count:]:
        rest.remove()
    return figure, list(axes[:count])


def legend(
    figure: Figure, *panels: Axes, looks: Mapping[str, Look] | None = None, lines: bool = False, note: str = ""
) -> None:
    """Put one legend below the figure: one entry per label, then one for each of `looks`, with their `lines`."""
    from matplotlib.lines import Line2D

    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    for name, look in (looks or {}).items():
        line: Any = look.line if lines else ""
        mark: Any = {"marker": look.marker, "markerfacecolor": inside(look), "markersize": 5}
        entries[name] = Line2D([], [], color=look.colour, linestyle=line, **mark)
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=6, title=note or None)


def inside(look: Look) -> str:
    """The colour inside of a marker."""
    return "white" if look.open else look.colour


def pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto front of (cost, value) points, by increasing cost: no point of the same or lower cost is better."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front
