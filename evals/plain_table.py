"""Lines of texts with columns that are as wide as their widest text, for a pipe or a log."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 80


def aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of texts, each column as wide as its widest."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def within(
    lines: Sequence[tuple[str, ...]], width: int, order: Sequence[str]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """The table with as many columns left out as it takes to fit into `width`, and their headings.

    The first line has the headings. `order`: those that may be left out, the least important first.
    """
    found, left_out = list(lines), list[str]()
    for heading in order:
        if max(map(len, aligned(found))) <= width:
            break
        if heading in found[0]:
            place = found[0].index(heading)
            found = [line[:place] + line[place + 1 :] for line in found]
            left_out.append(heading)
    return found, left_out


def fitted(lines: Sequence[tuple[str, ...]], width: int = WIDTH) -> list[str]:
    """Like `aligned`, in as many blocks of columns as fit into `width`, each with the first column again."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    blocks, used = [[0]], widths[0]
    for column in range(1, len(widths)):
        if used + 2 + widths[column] > width and len(blocks[-1]) > 1:
            blocks.append([0])
            used = widths[0]
        blocks[-1].append(column)
        used += 2 + widths[column]
    found: list[str] = []
    for block in blocks:
        found += ([""] if found else []) + aligned([tuple(line[column] for column in block) for line in lines])
    return found


def with_wrapped_end(lines: Sequence[tuple[str, ...]], width: int = WIDTH) -> list[str]:
    """Lines of texts, each column as wide as its widest; the last column is wrapped, so that all fit into `width`."""
    widths = [max(map(len, column)) + 2 for column in list(zip(*lines, strict=True))[:-1]]
    found = []
    for *first, last in lines:
        head = "".join(text.ljust(size) for text, size in zip(first, widths, strict=True))
        told = wrapped(last, width - sum(widths))
        found += [(head + told[0]).rstrip(), *(" " * len(head) + line for line in told[1:])]
    return found


def wrapped(text: str, width: int = WIDTH) -> list[str]:
    """The lines of a text. Words stay whole: paths and links may be longer than `width`."""
    return textwrap.wrap(text, max(20, width), break_long_words=False, break_on_hyphens=False) or [""]
