"""How a method looks in every figure and on every page: a colour, a marker and a line, chosen by its name alone.

A reader who has seen FastV once finds it again in the next figure, in another run and in a file of bench. Colours are
Okabe and Ito's (https://jfly.uni-koeln.de/color/) without yellow, which is too light on white. Methods share a colour
or a marker, never both. Two methods with the same marker have colours that stay apart for the colour-blind: the tests
measure it. Null baselines are gray, vanilla is black.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from hidrop.methods import METHODS

if TYPE_CHECKING:
    from matplotlib.path import Path as MarkerPath

VANILLA, STACK = "vanilla", "stack"
BLACK, GRAY = "#000000", "#6b6b6b"
# In this order any two colours that are one or two places apart also differ for the colour-blind.
HUES = ("#0072B2", "#E69F00", "#56B4E9", "#D55E00", "#CC79A7", "#009E73")
SHAPES = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":", "-.")
# Null baselines have open marks.
NULLS = {"random": "x", "uniform": "+", "pool": "1", "downsample": "2", "text_only": "|"}
# 6 and 7 have no common divisor, so these many numbers have different pairs of colour and marker. Methods of hidrop
# have the first half of them, in the order of METHODS; others have the second half.
PAIRS = len(HUES) * len(SHAPES)


@dataclass(frozen=True)
class Look:
    """`open`: the marker has no inside, as a cross, or is drawn hollow."""

    colour: str
    marker: str
    line: str = "-"
    open: bool = False


class Named(Protocol):
    """A row of a table."""

    @property
    def method(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def budget(self) -> str | None: ...


class Trained(Named, Protocol):
    """A row of a table of results."""

    @property
    def trained(self) -> bool: ...


def shown_name(row: Named) -> str:
    """The method's name in legends. A stack is known by its label, without the budget."""
    return row.label.removesuffix(f"-{row.budget}") if row.method == STACK else row.method


def looks_of(names: Iterable[str]) -> dict[str, Look]:
    """The look of each method. Only the names count, not their order.

    Methods of hidrop always look the same. Two others can be given the same look by their names; the second by
    alphabet then moves on to the next free one.
    """
    names = list(dict.fromkeys(names))
    looks = {name: look for name in names if (look := _own(name))}
    taken: set[int] = set()
    for name in sorted(set(names) - set(looks)):
        half = PAIRS // 2
        start = zlib.crc32(name.encode()) % half
        free = next((n for step in range(half) if (n := half + (start + step) % half) not in taken), half + start)
        taken.add(free)
        looks[name] = _numbered(free)
    return {name: looks[name] for name in names}


def own_look(row: Trained, looks: Mapping[str, Look]) -> Look:
    """The look of a row, given those of the methods: filled if it was trained with its schedule, or is vanilla."""
    look = looks[shown_name(row)]
    return look if row.trained or row.method == VANILLA else replace(look, open=True)


def _own(name: str) -> Look | None:
    """The look of vanilla and of hidrop's methods. None for another method."""
    if name == VANILLA:
        return Look(BLACK, "*")
    if name in NULLS:
        return Look(GRAY, NULLS[name], LINES[list(NULLS).index(name) % len(LINES)], open=True)
    coloured = [method for method in METHODS if method not in (VANILLA, STACK, *NULLS)]
    return _numbered(coloured.index(name)) if name in coloured else None


def _numbered(number: int) -> Look:
    line = LINES[number // len(HUES) % len(LINES)]
    return Look(HUES[number % len(HUES)], SHAPES[number % len(SHAPES)], line)


def symbol(look: Look) -> str:
    """The marker as an <svg> element for a legend or a table, without styles."""
    from matplotlib.markers import MarkerStyle

    style = MarkerStyle(look.marker)
    outline = _outline(style.get_path().transformed(style.get_transform()))
    fill = "none" if look.open else look.colour
    return (
        '<svg class="symbol" viewBox="-8 -8 16 16" aria-hidden="true">'
        f'<path d="{outline}" fill="{fill}" stroke="{look.colour}" stroke-width="1.8"/></svg>'
    )


def _outline(path: MarkerPath) -> str:
    """A path of matplotlib, about one unit wide, as the data of an SVG path 12 units wide."""
    letters = {path.MOVETO: "M", path.LINETO: "L", path.CURVE3: "Q", path.CURVE4: "C", path.CLOSEPOLY: "Z"}
    parts = []
    for points, code in path.iter_segments(curves=True, simplify=False):
        places: Sequence[float] = [] if code == path.CLOSEPOLY else list(points)
        # SVG's y axis points down.
        numbers = (f"{(12 if n % 2 == 0 else -12) * value:.2f}" for n, value in enumerate(places))
        parts.append(letters[code] + " ".join(numbers))
    return "".join(parts)
