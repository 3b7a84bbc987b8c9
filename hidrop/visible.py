"""Text from files as it may be shown: nothing in it moves the cursor, recolours a terminal or reorders a line.

A checkpoint's config, a matrix, a journal or a data set may come from somebody else. What is printed or put on a page
goes through `visible`, which writes invisible control characters as escapes: "\\x1b[31m" instead of a red terminal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Controls (C0 without tab and line feed, DEL, C1), soft hyphen, marks and overrides of direction, zero-width space and
# no-break space, line and paragraph separators, invisible operators, surrogates, interlinear marks, and tags.
# The joiners U+200C and U+200D stay: scripts and emoji need them.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""Text with invisible control characters as escapes, such as \x1b. Tabs and line feeds stay."""
    return UNSEEN.sub(lambda found: _escaped(found[0], r"\x{:02x}"), text)


def visible_json(text: str) -> str:
    r"""JSON of the same content, with what is invisible in its strings as \uXXXX."""
    return UNSEEN.sub(lambda found: _escaped(found[0], r"\u{:04x}"), text)


def visible_values(value: Any) -> Any:
    """A copy of JSON-like data whose texts, keys included, are visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {visible_values(key): visible_values(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [visible_values(item) for item in value]
    return value


def _escaped(character: str, short: str) -> str:
    code = ord(character)
    if code > 0xFFFF:  # as JSON has it: two surrogates
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return short.format(code) if code < 0x100 else f"\\u{code:04x}"
