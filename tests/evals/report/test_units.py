"""Numbers for people, each against its text."""

from __future__ import annotations

import pytest

from evals.report.units import BYTES, COUNTS, Unit, fixed, millis, unit_for


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([999.0], ("", "999")),
        ([1000.0], ("k", "1.00")),
        ([999_999.0], ("k", "1000.0")),
        ([1e6], ("M", "1.00")),
        ([1e9], ("G", "1.00")),
        ([3.82e12], ("T", "3.82")),
        ([4e15], ("T", "4000.0")),
        ([99.994e6], ("M", "99.99")),
        ([100e6], ("M", "100.0")),
        ([-2e9, 1e6], ("G", "-2.00")),
        ([5e6, None, 2e9], ("G", "0.01")),
        ([0.5], ("", "0")),
        ([0.0], ("", "0")),
    ],
)
def test_a_column_has_the_unit_of_its_largest_number(values: list[float | None], shown: tuple[str, str]) -> None:
    unit = unit_for(values, COUNTS)
    assert (unit.prefix, unit.show(values[0])) == shown


def test_bytes_go_by_1024() -> None:
    for prefix, size in (("Ki", 2**10), ("Mi", 2**20), ("Gi", 2**30)):
        unit = unit_for([float(size), 1.0], BYTES)
        assert (unit.prefix, unit.show(size), unit.show(50.5 * size)) == (prefix, "1.00", "50.50")
        assert unit_for([size - 1.0], BYTES).prefix != prefix
    assert unit_for([1023.0], BYTES) == Unit("", 1.0, 0)
    assert unit_for([], BYTES) == unit_for([None], COUNTS) == Unit("", 1.0, 0)
    assert unit_for([1e9], COUNTS).show(None) == "-"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"), (0.0, "0.00"), (0.1234, "0.12"), (9.994, "9.99"), (10.0, "10.0"), (-10.0, "-10.0"),
        (99.94, "99.9"), (100.0, "100"), (-100.4, "-100"), (12345.6, "12346"),
    ],
)  # fmt: skip
def test_milliseconds_have_three_significant_digits(value: float | None, shown: str) -> None:
    assert millis(value) == shown


def test_a_number_has_a_fixed_count_of_decimals() -> None:
    assert (fixed(None), fixed(1.26), fixed(1.256, 2), fixed(-3.0, 0)) == ("-", "1.3", "1.26", "-3")
