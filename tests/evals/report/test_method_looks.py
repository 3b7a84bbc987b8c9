"""A method looks the same everywhere, and 16 methods can be told apart, also by the colour-blind."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from evals.report.method_looks import BLACK, GRAY, LINES, NULLS, PAIRS, STACK, looks_of, own_look, shown_name, symbol
from hidrop.methods import METHODS

METHODS_WITH_COLOURS = [name for name in METHODS if name not in ("vanilla", STACK, *NULLS)]
# Linear RGB as people without one kind of cone see it: Machado, Oliveira, Fernandes 2009, severity 1.
SEEN = {
    "everybody": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}


def linear(colour: str) -> list[float]:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def lab(rgb: list[float]) -> tuple[float, float, float]:
    """CIELAB (D65) of linear RGB."""
    red, green, blue = (min(1.0, max(0.0, part)) for part in rgb)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def distance(one: str, other: str, seen: tuple[tuple[float, ...], ...]) -> float:
    """CIE76 difference of two colours as somebody sees them. About 2.3 is just noticeable."""
    first, second = (
        lab([sum(weight * part for weight, part in zip(row, linear(colour), strict=True)) for row in seen])
        for colour in (one, other)
    )
    return sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) ** 0.5


@pytest.mark.parametrize("eyes", SEEN)
def test_two_methods_with_one_marker_have_colours_that_everybody_can_tell_apart(eyes: str) -> None:
    looks = looks_of(METHODS_WITH_COLOURS)
    pairs = [
        (one, other) for one, other in itertools.combinations(looks, 2) if looks[one].marker == looks[other].marker
    ]
    assert len(looks) >= 14 and pairs
    for one, other in pairs:
        assert distance(looks[one].colour, looks[other].colour, SEEN[eyes]) > 15, (one, other)


def test_no_two_methods_of_hidrop_look_the_same() -> None:
    looks = looks_of(METHODS)
    assert len(METHODS_WITH_COLOURS) <= PAIRS // 2, "their pairs of colour and marker run into those of others"
    assert len({(look.colour, look.marker) for name, look in looks.items() if name != STACK}) == len(METHODS) - 1
    assert len({(look.colour, look.line) for look in looks_of(METHODS_WITH_COLOURS).values()}) == len(
        METHODS_WITH_COLOURS
    ), "lines have no marker at most of their points"
    assert looks["vanilla"].colour == BLACK
    assert all(looks[name].colour == GRAY and looks[name].open for name in NULLS)


def test_a_look_follows_from_the_name_and_not_from_the_company_or_the_order() -> None:
    alone = looks_of(["fastv"])["fastv"]
    assert looks_of(["pdrop", "random", "mine", "fastv"])["fastv"] == alone
    assert looks_of(["fastv", "vanilla", "mine"])["mine"] == looks_of(["mine"])["mine"]
    others = [f"own-{number}" for number in range(PAIRS // 2)]
    looks = looks_of([*others, *METHODS])
    assert looks_of(reversed(others)) == {name: looks[name] for name in reversed(others)}
    assert len({(look.colour, look.marker) for look in looks.values()}) >= len(others) + len(METHODS) - 1
    assert {look.line for look in looks.values()} <= set(LINES)
    assert len(looks_of([*others, "one-too-many"])) == len(others) + 1


def test_a_stack_is_known_by_its_label_without_the_budget() -> None:
    class Row:
        method, label, budget = "stack", "duet-25%", "25%"

    assert shown_name(Row()) == "duet"
    Row.method = "fastv"
    assert shown_name(Row()) == "fastv"


def test_a_mark_is_filled_if_the_row_was_trained_or_is_vanilla() -> None:
    looks = looks_of(METHODS)
    for method, trained, filled in (("pdrop", True, True), ("pdrop", False, False), ("vanilla", False, True)):
        row: Any = SimpleNamespace(method=method, label=method, budget=None, trained=trained)
        assert own_look(row, looks).open is not filled
        assert ('fill="none"' in symbol(own_look(row, looks))) is not filled


def test_a_symbol_is_a_drawing_without_styles() -> None:
    looks = looks_of(METHODS)
    for look in looks.values():
        drawn = symbol(look)
        assert "style" not in drawn and f'stroke="{look.colour}"' in drawn
        assert ('fill="none"' in drawn) == look.open
    assert "C" in symbol(looks["hidrop"]), "a circle"


def test_budgets_of_one_method_share_its_colour_in_a_file_of_bench_and_can_be_told_apart() -> None:
    from evals.bench.figures import _looks

    rows: Any = [
        {"method": method, "label": f"{method}-{budget}", "budget": budget}
        for method in ("pdrop", "fastv")
        for budget in ("64", "128")
    ]
    found, names = _looks(rows), looks_of(["pdrop", "fastv"])
    for label, look in found.items():
        assert (look.colour, look.marker) == (names[label.split("-")[0]].colour, names[label.split("-")[0]].marker)
    assert found["fastv-64"] == names["fastv"] and found["fastv-128"].open
    assert len({(look.colour, look.line) for look in found.values()}) == 4
