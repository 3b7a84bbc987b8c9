"""Format numbers for readers, with one unit for a whole column."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from evals.profiling.ratios import RatioEntry, is_noise

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


def ratio(found: RatioEntry, *, interval: bool = False) -> str:
    """ "1.29x", with its interval "1.29 ± 0.02x"; marked as noise if the interval includes 1."""
    low, high = found["low"], found["high"]
    half = f" ± {(high - low) / 2:.2f}" if interval and low is not None and high is not None and low < high else ""
    return f"{found['ratio']:.2f}{half}x" + (" (noise)" if is_noise(found) else "")


def faster_text(ratio: float | None) -> str:
    """A speed-up: "1.29x"."""
    return MISSING if ratio is None else f"{ratio:.2f}x"


def share_text(share: float) -> str:
    """A share (0-1) in percent with one decimal."""
    return f"{100 * share:.1f} %"
