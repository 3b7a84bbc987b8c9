"""Messages that are the same in every run."""

from __future__ import annotations

import io

import pytest

from hidrop.errors import LONGEST_REASON, in_a_line, reason, shortened, shown


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


def test_what_a_message_quotes_is_one_printable_line_of_limited_length() -> None:
    assert len(in_a_line(ValueError("x" * 35_000))) < 400 and "35,000" in in_a_line(ValueError("x" * 35_000))
    assert in_a_line(ValueError("of a file\nmore")) == "ValueError: of a file"
    assert in_a_line(KeyboardInterrupt()) == "KeyboardInterrupt" and "\x1b" not in in_a_line(ValueError("\x1b[31m"))
    name, words = "a\x1b[31m\nb\ud800" + "x" * 1000, "first\n\x1b[31msecond\ud800 " + "y" * 1000
    assert shortened(name) == f"a?[31m?b?{'x' * 191}... (1,009 characters)" and shortened("ü/b.png") == "ü/b.png"
    assert reason(ValueError(words)).startswith("first ?[31msecond? yyy")
    assert len(reason(ValueError(words))) == LONGEST_REASON
    assert (reason(KeyError("layer")), reason(OSError())) == ("KeyError: 'layer'", "OSError")
    assert shown("\n") == r"'\n'" and len(shown("z" * 1000)) == 60
