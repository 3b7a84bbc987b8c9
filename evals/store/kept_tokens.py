"""The visual tokens that a method kept at each of its cuts, for the journal: one bit per visual token of the prompt."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hidrop.runtime import Reduction

# [the layer after which the cut was made, the kept tokens (see `pack`)], in the order of the cuts.
Cuts = list[tuple[int, str]]


def pack(kept: Sequence[int], count: int) -> str:
    """Tokens as base64 of `count` bits. The first token is the highest bit of the first byte."""
    bits = np.zeros(count, dtype=bool)
    bits[list(kept)] = True
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def unpack(text: str, count: int) -> list[int]:
    """The tokens that `pack` wrote. Raises ValueError for invalid base64 and for less than `count` bits."""
    data = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if 8 * len(data) < count:
        raise ValueError(f"{text!r} has less than {count} bits")
    return np.flatnonzero(np.unpackbits(data, count=count)).tolist()


def cuts_of(reduction: Reduction, counts: Sequence[int]) -> list[Cuts | None]:
    """The cuts of the last prefill, of each prompt. `counts`: visual tokens of each prompt.

    None for a method whose tokens are not places in the image, and for one that chooses again for each generated token.
    With beams a prompt has several equal rows.
    """
    if reduction.reducer.encodes or reduction.reducer.rechosen:
        return [None] * len(counts)
    found = [list[tuple[int, str]]() for _ in counts]
    for cut in reduction.kept:
        rows = cut.rows[:: len(cut.rows) // len(counts)]
        for cuts, row, count in zip(found, rows, counts, strict=True):
            cuts.append((cut.after, pack(row, count)))
    return list(found)
