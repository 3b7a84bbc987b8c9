"""Generated token ids, as everyone who decodes reads them."""

from __future__ import annotations

from collections.abc import Sequence


def new_tokens(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The generated ids up to and with the first end-of-sequence id; what follows is padding of the batch."""
    for place, token in enumerate(ids):
        if token in ends:
            return list(ids[: place + 1])
    return list(ids)
