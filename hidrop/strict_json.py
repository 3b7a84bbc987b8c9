"""JSON without what Python's reader adds to it or what costs it time and memory without end."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

LONGEST_NUMBER = 40  # digits; Python needs quadratic time for them
BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')  # a text as a whole, so that its brackets do not count


def value(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for any other text.

    NaN, infinite numbers, whole numbers of more than LONGEST_NUMBER digits and nesting beyond Python's stack are
    refused, too.
    """
    try:
        return json.loads(text, parse_constant=_not_json, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_depth(text: str, most: int) -> None:
    """Raises ValueError for JSON with more than `most` brackets in each other, for readers that are recursive."""
    depth = 0
    for found in BRACKETS.finditer(text):
        depth += found[0] in "[{"
        depth -= found[0] in "]}"
        if depth > most:
            raise ValueError(f"nested deeper than {most} levels")


def _whole(text: str) -> int:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _not_json(text)


def _not_json(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")
