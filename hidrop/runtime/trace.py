"""What really happened: visual tokens counted in each layer of each prefill, compared with the plan.

Counting leaves tensors on the device and compares them later, so that it never makes a prefill wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hidrop.plan import TokenPlan
from hidrop.runtime.cache import RaggedCache
from hidrop.runtime.layout import Layout


class TraceMismatch(RuntimeError):
    """A prefill did not hold the visual tokens that its plan says."""


@dataclass(frozen=True)
class Trace:
    """The last prefill. `entering`: visual tokens in each layer, of the batch's largest row; `rows`: of each row.

    `kv_bytes` and `kv_lengths` are read off the cache after the prefill (0 and empty without one).
    """

    entering: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    text_tokens: int
    kv_bytes: int
    kv_lengths: tuple[int, ...]


@dataclass(frozen=True)
class Kept:
    """What one cut of the last prefill left.

    `rows`: of each row the tokens, in their order: 0 is the prompt's first visual token, the next image's follow.
    Merged tokens are not among them.
    """

    after: int
    rows: tuple[tuple[int, ...], ...]


@dataclass
class Record:
    """Counts of one prefill on their way to a Trace. One entry of `tokens_B` and `slots` per layer.

    `cuts`: after which layer, the order of the visual slots before (B, V), and which of them stayed (B, K).
    """

    layout: Layout
    plans: tuple[TokenPlan, ...] = ()
    tokens_B: list[torch.Tensor] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    masked: list[bool] = field(default_factory=list)
    cuts: list[tuple[int, torch.Tensor, torch.Tensor]] = field(default_factory=list)
    kv_lengths: tuple[int, ...] = ()
    kv_bytes: int = 0

    def count(self, order_BN: torch.Tensor, masked: bool, layers: int) -> None:
        """Note what the next `layers` layers hold."""
        self.tokens_B += [(order_BN >= 0).sum(1)] * layers
        self.slots += [order_BN.shape[1]] * layers
        self.masked += [masked] * layers

    @property
    def text_counts(self) -> tuple[int, ...]:
        return self.layout.text_counts

    def cut(self, after: int, order_BV: torch.Tensor, index_BK: torch.Tensor) -> None:
        """Note a cut as it was made; `kept` works out what it means, when it is asked for."""
        self.cuts.append((after, order_BV, index_BK))

    def ranks(self) -> list[torch.Tensor]:
        """Of each cut the visual tokens (B, K) that stayed, as `Kept` counts them; -1 for fillers and merged ones."""
        found = []
        for _, order_BV, index_BK in self.cuts:
            order_BK = torch.where(index_BK >= 0, order_BV.gather(1, index_BK.clamp(min=0)), -1)
            source = self.layout.sources(order_BK)
            found.append(torch.where(source >= 0, self.layout.rank_BS.gather(1, source.clamp(min=0)), -1))
        return found

    def kept(self) -> tuple[Kept, ...]:
        """Waits for the device."""
        found = []
        for (after, _, _), rank_BK in zip(self.cuts, self.ranks(), strict=True):
            found.append(Kept(after, tuple(tuple(n for n in row if n >= 0) for row in rank_BK.tolist())))
        return tuple(found)

    def close(self, plans: tuple[TokenPlan, ...], cache: RaggedCache | None) -> None:
        """`plans`: those of the rows, as an adaptive method has made them on the way."""
        self.plans = plans
        if cache is not None:
            self.kv_lengths, self.kv_bytes = cache.lengths, cache.nbytes

    def trace(self) -> Trace:
        """Waits for the device."""
        tokens = torch.stack(self.tokens_B).T.tolist()
        rows = tuple(tuple(n - text for n in row) for row, text in zip(tokens, self.text_counts, strict=True))
        entering = tuple(max(column) for column in zip(*rows, strict=True))
        return Trace(entering, rows, max(self.text_counts), self.kv_bytes, self.kv_lengths)

    def check(self) -> Trace:
        """The trace, after comparing it with the plan row by row. Raises TraceMismatch."""
        trace = self.trace()
        for row, (seen, plan) in enumerate(zip(trace.rows, self.plans, strict=True)):
            if seen != plan.entering:
                raise TraceMismatch(f"row {row}: visual tokens entering each layer: {seen}, planned {plan.entering}")
        for layer, (slots, masked) in enumerate(zip(self.slots, self.masked, strict=True)):
            tokens = [row[layer] + text for row, text in zip(trace.rows, self.text_counts, strict=True)]
            if max(tokens) > slots or (not masked and min(tokens) < slots):
                raise TraceMismatch(f"layer {layer + 1} ran on {slots} slots, unmasked, for rows of {tokens} tokens")
        if trace.kv_lengths and trace.kv_lengths != tuple(self.slots):
            raise TraceMismatch(f"the KV cache holds {trace.kv_lengths} keys per layer, the layers ran on {self.slots}")
        return trace
