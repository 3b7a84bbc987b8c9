"""What is JSON to hidrop, and what is not."""

from __future__ import annotations

import pytest

from hidrop.strict_json import check_depth, value


def test_json_is_read_as_python_reads_it() -> None:
    assert value('{"a": [1, -2.5, 1e3, true, null, "ü"]}') == {"a": [1, -2.5, 1000.0, True, None, "ü"]}
    assert value(b'"\xc3\xbc"') == "ü" and value("9" * 40) == int("9" * 40)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "^NaN is not JSON$"),
        ("[-Infinity]", "^-Infinity is not JSON$"),
        ("1e999", "^1e999 is not JSON$"),
        ("9" * 41, "^a number of 41 digits$"),
        ("[" * 100_000, "^nested too deeply$"),
        ("{", "Expecting"),
        (b"\xff", "codec can't decode"),
    ],
)
def test_anything_else_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        value(text)


def test_brackets_are_counted_outside_of_texts() -> None:
    check_depth('[["[[[[[", "\\"[[["]]', 2)
    check_depth("[[], [], []]", 2)
    with pytest.raises(ValueError, match="nested deeper than 2 levels"):
        check_depth('[[{"a": 1}]]', 2)
