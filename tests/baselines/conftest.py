"""The slow model with the slow rules, as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.baselines.slow_model import SlowLlava
from tests.baselines.slow_rules import RULES
from tests.baselines.slow_sparsevlm import slow_cluster


@pytest.fixture
def slow_llava() -> Callable[[Any, str], SlowLlava]:
    """The slow model with the rule of a row of the table of methods."""
    return lambda model, row: SlowLlava(model, RULES[row]())


@pytest.fixture
def slow_dpc_knn() -> Callable[[list[torch.Tensor], int], list[torch.Tensor]]:
    return slow_cluster


@pytest.fixture
def view_of_logits() -> Callable[..., Any]:
    """A View whose attention logits are given: `logits[q][h][n]` for each query, head and token; no rope."""
    from types import SimpleNamespace

    from hidrop.plan import Cut
    from hidrop.runtime.layout import ROOM, RowCuts
    from hidrop.runtime.scoring import Queries, View

    def make(
        logits: list[list[list[float]]],
        queries: list[int],
        visual: list[int],
        text: list[int] | None = None,
        memory: Any = None,
        dtype: torch.dtype = torch.float32,
        keep: int = 1,
    ) -> View:
        heads, tokens = len(logits[0]), len(logits[0][0])
        table = torch.zeros(tokens, heads * tokens)
        for slot, row in zip(queries, logits, strict=True):
            table[slot] = torch.tensor(row).flatten()
        attention = SimpleNamespace(
            head_dim=tokens, scaling=1.0, k_proj=lambda x: x.repeat(1, 1, heads), q_proj=lambda x: x @ table.to(dtype)
        )
        layer = SimpleNamespace(self_attn=attention, input_layernorm=lambda x: x)
        states = torch.eye(tokens, dtype=dtype)[None]
        slots = torch.tensor([queries])
        count = torch.tensor([1])
        return View(
            layer=1,
            layers=[layer, layer],
            input_BND=states,
            hidden_BND=states,
            order_BN=torch.arange(tokens)[None] * ROOM,
            rope=lambda layer: (torch.ones_like(states), torch.zeros_like(states)),
            keys=None,
            text_BT=torch.tensor([text or queries]),
            visual_BV=torch.tensor([visual]),
            queries=Queries(slots, torch.full(slots.shape, 1 / len(queries))),
            cut=RowCuts(1, (Cut(1, keep),), (len(visual),), count * keep, count * 0),
            layout=SimpleNamespace(labels=lambda order: None),
            memory=memory,
            final_norm=lambda states: states,
        )

    return make
