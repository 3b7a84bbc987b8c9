"""Messages that are the same in every run."""

from __future__ import annotations

import io

import pytest

from hidrop.errors import in_a_line


def test_two_objects_of_a_kind_give_the_same_message() -> None:
    first, second = (f"cannot identify image file {file!r}" for file in (io.BytesIO(), io.BytesIO()))
    assert first != second
    assert (
        in_a_line(ValueError(first))
        == in_a_line(ValueError(second))
        == "ValueError: cannot identify image file <_io.BytesIO object>"
    )


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("<function f at 0x7f3a5c0b1e40> and <A object at 0x1F>", "<function f> and <A object>"),
        ("illegal access to 0x7f3a5c0b1e40", "illegal access to "),
        ("marker 0xffd8 at byte 0x10 of 640x480", "marker 0xffd8 at byte 0x10 of 640x480"),
    ],
)
def test_addresses_are_removed_and_other_numbers_stay(text: str, same: str) -> None:
    assert in_a_line(ValueError(text)) == f"ValueError: {same}"
