"""Operations counted by torch while code runs, to check the closed form of `TokenPlan.flops`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _cpu_attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def counted_flops(run: Callable[[], Any]) -> int:
    """Operations that torch counts in `run()`: matrix products, and attention as a full square without causal discount.

    A multiply-accumulate is two operations, as in `TokenPlan.flops(text, causal=False)`. torch's counter does not know
    the CPU's fused attention kernel and would count it as 0, so its formula is added here.
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={kernel: _cpu_attention})
    with counter:
        run()
    return int(counter.get_total_flops())
