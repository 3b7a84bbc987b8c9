"""Text from files, as it is shown: no character of it acts on a terminal, reorders a line or hides."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from hidrop.visible import visible, visible_json, visible_values


def test_every_control_and_format_character_is_escaped() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or (
            # Format characters that belong to a script (Arabic number signs, musical marks, ...) are drawn.
            unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        )
        if hidden and character not in "\t\n":
            assert visible(character).isascii() and visible(character).startswith("\\"), hex(code)
        elif visible(character) != character:
            assert unicodedata.category(character) in ("Cf", "Cn"), hex(code)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("a\rb", r"a\x0db"),
        ("\x9b2J", r"\x9b2J"),
        ("abc\u202etxt.exe", r"abc\u202etxt.exe"),
        ("\u2066\u2069\u200e\u200f\u061c", r"\u2066\u2069\u200e\u200f\u061c"),
        ("\ud800", r"\ud800"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("\U000e0041", r"\udb40\udc41"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("Größe ± 日本 👩\u200d🚀", "Größe ± 日本 👩\u200d🚀"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown
    assert visible_values({text: [text, 1, None]}) == {shown: [shown, 1, None]}


def test_json_keeps_its_content() -> None:
    for text in ("\x9b\u202e\ud800 \U000e0041 ± \x1b", '\\\u2028"', "\x7f"):
        plain = json.dumps({text: text}, ensure_ascii=False)
        assert json.loads(visible_json(plain)) == {text: text}
        assert visible(visible_json(plain)) == visible_json(plain)
