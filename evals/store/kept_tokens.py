"""Which visual tokens a method kept at each of its cuts, as a journal holds it: a bit for each token of the prompt."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hidrop.runtime import Reduction

# [the layer after which it was cut, the tokens that stayed (see `pack`)], in the order of the cuts.
Cuts = list[tuple[int, str]]


def pack(kept: Sequence[int], count: int) -> str:
    """Tokens as base64 of `count` bits, the first token's bit highest in the first byte."""
    bits = np.zeros(count, dtype=bool)
    bits[list(kept)] = True
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def unpack(text: str, count: int) -> list[int]:
    """The tokens that `pack` wrote. Raises ValueError for what is no base64, or too short for `count` tokens."""
    data = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if 8 * len(data) < count:
        raise ValueError(f"{text!r} has no {count} bits")
    return np.flatnonzero(np.unpackbits(data, count=count)).tolist()


def cuts_of(reduction: Reduction, counts: Sequence[int]) -> list[Cuts | None]:
    """What the last prefill kept of each prompt's visual tokens (so many are in `counts`).

    None for a method whose tokens are no places in the image, or that chooses anew for each token of the answer. With
    beams a prompt has several rows, which are alike.
    """
    if reduction.reducer.encodes or reduction.reducer.rechosen:
        return [None] * len(counts)
    found = [list[tuple[int, str]]() for _ in counts]
    for cut in reduction.kept:
        rows = cut.rows[:: len(cut.rows) // len(counts)]
        for cuts, row, count in zip(found, rows, counts, strict=True):
            cuts.append((cut.after, pack(row, count)))
    return list(found)
