"""Rules one after the other for the slow model: each sees what the rules before it have left. For one image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tests.baselines.slow_model import SlowLlava, Token


@dataclass
class StackRule:
    """`rules`: each with the layers after which it cuts; 0 is right before the tokens enter, whatever the layer.

    `entry`: positions are given once, when everything before the decoder is done.
    """

    rules: list[tuple[Any, tuple[int, ...]]]
    compacted: bool = False
    entry: bool = False
    inject: int = 1
    exit: int | None = None

    def after(self, slow: SlowLlava, layer: int, before: list[Token], after: list[Token]) -> list[Token]:
        if layer == 0:
            self.whole = slow.whole
        if not any(t.visual for t in after):  # before they enter, or after they left
            return after
        for rule, layers in self.rules:
            at = 0 if layer == self.inject - 1 and 0 in layers else layer
            if at not in layers or (layer == 0 and self.inject > 1):
                continue
            if at == layers[0]:  # what is there now is its image
                places = {t.place for t in after if t.visual}
                rule.image = [replace(t) for t in self.whole if not t.visual or t.place in places]
            slow.whole = rule.image
            after = rule.after(slow, at, before, after)
            if at == 0:
                before = after
                if any(t.visual and t.rank < 0 for t in after):
                    self.whole = after  # made in the tower
        slow.whole = self.whole
        return after
