"""The closed form of `TokenPlan.flops` against torch's own count of what runs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from baselines.fastv import FastV
from baselines.vanilla import Vanilla
from evals.profiling.point import Point
from evals.profiling.prompt import SyntheticRequest, build_request
from evals.profiling.vision import RecordedFeatures
from hidrop.backbones import backbone_of, geometry_of
from hidrop.hidrop import HiDrop
from hidrop.reducer import Reducer
from hidrop.runtime import reduce

TEXT = 12


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


@pytest.fixture(params=[4, 2], ids=["mha", "gqa"])
def case(request: Any, tiny_llava: Callable[..., Any]) -> SimpleNamespace:
    model = tiny_llava(kv_heads=request.param)
    geometry = geometry_of(model.config)
    prompt = build_request(model, geometry, Point(text_tokens=TEXT))
    return SimpleNamespace(model=model, geometry=geometry, prompt=prompt)


def decoder_flops(model: Any, reducer: Reducer, prompt: SyntheticRequest) -> int:
    """Operations of one prefill without tower and projector."""

    def forward() -> None:
        with torch.no_grad():
            model(**prompt.prefill_inputs())

    with reduce(model, reducer, features=RecordedFeatures()):
        forward()  # makes the features
        return counted_flops(forward)


def test_count_of_a_vanilla_prefill_is_the_closed_form(case: SimpleNamespace) -> None:
    g, tokens = case.geometry, TEXT + case.geometry.visual_tokens
    head = 2 * g.hidden * g.vocab
    # transformers 5.17 computes the angles with a matrix product of 2 x tokens x half a head, 5.24 without one.
    backbone, place = backbone_of(case.model), torch.arange(tokens)[None, None]
    rotary = counted_flops(lambda: backbone.rope(torch.zeros(1, tokens, g.hidden), place))
    assert rotary in (2 * tokens * g.head_dim // 2, 0)
    expected = Vanilla().plan(g).flops(TEXT, causal=False) + head + rotary
    assert decoder_flops(case.model, Vanilla(), case.prompt) == expected


@pytest.mark.parametrize(
    ("reducer", "selections"),
    [
        (FastV(layer=2, keep=4), 1),
        (HiDrop(inject=3, filters=(3, 4), keep=(4, 2), exit=6), 2),
    ],
    ids=["fastv", "hidrop"],
)
def test_a_reduced_prefill_saves_what_its_plan_saves(case: SimpleNamespace, reducer: Reducer, selections: int) -> None:
    """The closed form leaves the selection out: at most one query and one key projection of the whole prompt each."""
    g, tokens = case.geometry, TEXT + case.geometry.visual_tokens
    saved = decoder_flops(case.model, Vanilla(), case.prompt) - decoder_flops(case.model, reducer, case.prompt)
    planned = Vanilla().plan(g).flops(TEXT, causal=False) - reducer.plan(g).flops(TEXT, causal=False)
    width = g.heads * g.head_dim
    selection = 2 * tokens * g.hidden * (width + g.kv_heads * g.head_dim) + 2 * tokens * width
    assert planned - selections * selection <= saved <= planned


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_on_the_cpu_is_counted(kv_heads: int) -> None:
    query = torch.randn(1, 4, 7, 8)
    key = torch.randn(1, kv_heads, 9, 8)

    def attend() -> None:
        scaled_dot_product_attention(query, key, key, enable_gqa=kv_heads != 4)

    assert counted_flops(attend) == 2 * 2 * 4 * 7 * 9 * 8
