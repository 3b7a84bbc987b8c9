"""Format numbers for readers, with one unit for a whole column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

MISSING = "-"
COUNTS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
BYTES = ((1024.0**3, "Gi"), (1024.0**2, "Mi"), (1024.0, "Ki"))


@dataclass(frozen=True)
class Unit:
    """A unit prefix, its size, and the number of decimals."""

    prefix: str
    size: float
    digits: int

    def show(self, value: float | None) -> str:
        """The value in this unit."""
        return MISSING if value is None else f"{value / self.size:.{self.digits}f}"


def unit_for(values: Iterable[float | None], steps: tuple[tuple[float, str], ...]) -> Unit:
    """The largest unit in which the largest value is at least 1, with at least three digits for that value."""
    largest = max((abs(value) for value in values if value is not None), default=0.0)
    size, prefix = next((step for step in steps if largest >= step[0]), (1.0, ""))
    if not prefix:
        return Unit("", 1.0, 0)
    return Unit(prefix, size, 2 if largest / size < 100 else 1)


def millis(value: float | None) -> str:
    """Milliseconds with three significant digits, never in exponent form."""
    if value is None:
        return MISSING
    return f"{value:.{0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2}f}"


def fixed(value: float | None, digits: int = 1) -> str:
    """A number with a fixed number of decimals."""
    return MISSING if value is None else f"{value:.{digits}f}"


def share_text(share: float) -> str:
    """A share (0-1) in percent with one decimal."""
    return f"{100 * share:.1f} %"
