"""What a cell's numbers stand on: the row's plan, or what was counted where that is another."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from evals.matrix.resolve import MatrixRow
from evals.store import document
from hidrop.geometry import Geometry
from hidrop.plan import TokenPlan
from hidrop.reducer import build

GEOMETRY = Geometry(layers=4, hidden=32, intermediate=64, heads=4, kv_heads=4, head_dim=8, vocab=99, visual_tokens=16)
FASTV = build("fastv", {"layer": 2, "keep": 4})
ROW = MatrixRow("m", "fastv", FASTV, FASTV.plan(GEOMETRY), trained=False, budget=None, group="fastv")


def record(prompt: int, visual: int, entering: list[int] | None, error: str | None = None) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "visual_tokens": visual, "entering": entering, "error": error}


def entry(*records: dict[str, Any]) -> dict[str, Any]:
    stored = json.loads(json.dumps(document.prompt_groups(records)))
    result = {"metric": "accuracy", "value": 1.0, "extra": {}, "n": 1, "n_failed": 0, "dtype": "float32"}
    whole = {**result, "seconds": 1.0, "prompts": stored}
    return document.cell_entry(SimpleNamespace(task="gqa"), ROW, whole, 60, "an id")


def test_prompts_that_followed_the_plan_have_the_plans_numbers():
    found = entry(record(26, 16, None), record(26, 16, None), record(36, 16, None), record(0, 0, None, "broken"))
    assert (found["average_tokens"], found["kept"], found["entering"]) == (10, 4, [16, 16, 4, 4])
    assert found["text_tokens"] == pytest.approx(40 / 3)
    assert found["flops"] == round((2 * ROW.plan.flops(10) + ROW.plan.flops(20)) / 3)


def test_other_counts_are_averaged_over_the_prompts():
    found = entry(record(26, 16, [16, 8, 8, 0]), record(42, 32, [32, 32, 8, 8]), record(26, 16, None))
    plans = [TokenPlan(GEOMETRY, n) for n in ((16, 8, 8, 0), (32, 32, 8, 8))] + [ROW.plan]
    assert found["average_tokens"] == pytest.approx((8 + 20 + 10) / 3)
    assert found["share"] == pytest.approx((8 + 20 + 10) / (16 + 32 + 16))
    assert found["entering"] == [21, 19, 7, 4]
    assert found["flops"] == round(sum(plan.flops(10) for plan in plans) / 3)
    assert found["kv_bytes"] == round(sum(plan.kv_bytes(10, 4) for plan in plans) / 3)
    assert found["kept"] == 4  # stated for one image, as the budget is


def test_prompts_without_an_image_have_no_share_to_divide():
    assert entry(record(10, 0, [0, 0, 0, 0]))["share"] == 0


def test_where_no_prompt_was_answered_the_plan_stands():
    assert entry(record(0, 0, None, "broken"))["flops"] == ROW.plan.flops(60)
