"""The rules of DART, FEATHER and VTW for the slow model, written a second time from their descriptions."""

from __future__ import annotations

from dataclasses import dataclass

from tests.baselines.slow_model import SlowLlava, Token


def for_all(count: int, slow: SlowLlava) -> int:
    """Methods state counts for 16 visual tokens."""
    return max(count * sum(t.visual for t in slow.whole) // 16, min(count, 1))


@dataclass
class VTWRule:
    exit: int
    compacted: bool = False

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        return after
