"""What really happened in a prefill is compared with its plan, soon and once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hidrop.runtime import TraceMismatch, reduce
from hidrop.runtime import decoder as decoder_module
from hidrop.runtime import forward as forward_module
from tests.hidrop.runtime.test_attach import HIDROP


def test_trace_before_a_run_is_an_error(tiny_llava):
    with reduce(tiny_llava(), HIDROP) as reduction, pytest.raises(RuntimeError, match="nothing has run"):
        _ = reduction.trace


@pytest.mark.parametrize("keep", ["one too many", "one too few", "too few, masked as if there were more"])
def test_a_cut_that_strays_from_its_plan_is_found(keep, monkeypatch, tiny_llava, prompt, pixels):
    inner = decoder_module.keep_top

    def sabotaged(score: torch.Tensor, valid: torch.Tensor, count: torch.Tensor, slots: int) -> Any:
        if keep == "one too many":
            return inner(score, valid, count + 1, slots + 1)
        if keep == "one too few":
            return inner(score, valid, count - 1, slots - 1)
        return inner(score, valid, count - 1, slots)

    model = tiny_llava()
    monkeypatch.setattr(decoder_module, "keep_top", sabotaged)
    with pytest.raises(TraceMismatch, match=r"row 0: .*planned \(0, 16, 16, 5, 2, 0\)"), reduce(model, HIDROP):
        model.generate(input_ids=prompt(), pixel_values=pixels(), max_new_tokens=2, do_sample=False)
    assert "forward" not in model.__dict__


def test_an_earlier_mismatch_is_not_forgotten_and_reported_once(monkeypatch, tiny_llava, prompt, pixels):
    model, inner = tiny_llava(), decoder_module.keep_top
    with reduce(model, HIDROP) as reduction, torch.no_grad():
        with monkeypatch.context() as patch:
            patch.setattr(decoder_module, "keep_top", lambda s, v, k, n: inner(s, v, k + 1, n + 1))
            model(input_ids=prompt(), pixel_values=pixels())
        model(input_ids=prompt(), pixel_values=pixels())
        with pytest.raises(TraceMismatch):
            reduction.check()
        reduction.check()


def test_counts_that_wait_for_a_check_do_not_pile_up(monkeypatch, tiny_llava, prompt, pixels):
    monkeypatch.setattr(forward_module, "PENDING", 3)
    model = tiny_llava()
    with reduce(model, HIDROP) as reduction, torch.no_grad():
        for _ in range(10):
            model(input_ids=prompt(), pixel_values=pixels())
            assert len(reduction.forward_pass._pending) <= 3
