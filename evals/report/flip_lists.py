"""Which samples a row lost or gained against vanilla: all of them, as short texts in the page's data.

The page has room for some samples of a task with their images, and for the doc_ids of all that flipped. A list of
doc_ids is written as gaps: the documents between one and the next, in digits of 5 bits, the lowest first. A digit is a
letter of base64, and 32 more than its value if another one follows. Most gaps are one letter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from evals.report.page_data import KINDS

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
BITS = 5
FLIPPED = KINDS[:2]  # lost, gained
UNCOMPARED = KINDS[-1]
# Why a cell has no lists, as the page says it.
NO_VANILLA = "vanilla's journal is missing"
NO_ROOM = "the page has no room for more lists"
OLDER = "the page took these samples from one that an earlier version wrote, and their journals are missing"

# Of each cell: a list for each of FLIPPED, or why there are none.
Lists = dict[str, list[str] | str]


def packed(docs: Iterable[int]) -> str:
    """Ascending doc_ids as text."""
    letters, before = [], -1
    for doc in docs:
        gap, before = doc - before - 1, doc
        while gap >> BITS:
            letters.append(DIGITS[(1 << BITS) + (gap & (1 << BITS) - 1)])
            gap >>= BITS
        letters.append(DIGITS[gap])
    return "".join(letters)


def unpacked(text: str) -> Iterator[int]:
    """The doc_ids that `packed` wrote."""
    doc, gap, shift = -1, 0, 0
    for letter in text:
        digit = DIGITS.index(letter)
        gap |= (digit & (1 << BITS) - 1) << shift
        if digit >> BITS:
            shift += BITS
        else:
            doc, gap, shift = doc + 1 + gap, 0, 0
            yield doc


def lists_of(kinds: Mapping[str, Mapping[int, str]]) -> Lists:
    """The lists of cells whose samples were compared. kinds: of each cell, the entry of KINDS of each sample."""
    return {
        key: NO_VANILLA
        if all(kind == UNCOMPARED for kind in own.values())
        else [packed(sorted(doc for doc, kind in own.items() if kind == name)) for name in FLIPPED]
        for key, own in kinds.items()
    }


def within(lists: Lists, room: int) -> Lists:
    """The lists of the tasks with the shortest ones, as long as all of them have at most `room` letters."""
    sizes: dict[str, int] = {}
    for key, own in lists.items():
        task = key.rpartition("/")[2]
        sizes[task] = sizes.get(task, 0) + sum(map(len, own))
    fitting = set()
    for task in sorted(sizes, key=lambda task: sizes[task]):
        room -= sizes[task]
        if room >= 0:
            fitting.add(task)
    return {
        key: own if isinstance(own, str) or key.rpartition("/")[2] in fitting else NO_ROOM for key, own in lists.items()
    }
