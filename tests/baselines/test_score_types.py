"""Scores are float32 on models of every type, and under autocast. The runtime refuses any others."""

from __future__ import annotations

import pytest
import torch

from hidrop.runtime import reduce
from hidrop.testing import check_method
from tests.baselines.test_every_method import METHODS, every_method, reducer_of

FIRST = list({METHODS[row][0]: row for row in reversed(METHODS)}.values())  # one row of each method


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("row", FIRST)
def test_a_model_of_another_type_runs(row, kind, tiny_llava, prompt, pixels):
    model = tiny_llava(kv_heads=2).to(kind)
    with torch.no_grad(), reduce(model, reducer_of(row)) as reduction:
        logits = reduction.model(input_ids=prompt(), pixel_values=pixels().to(kind)).logits
    assert logits.dtype == kind and bool(logits.isfinite().all())


def test_a_rope_bias_of_zero_makes_no_score_of_sparsevlm_nan():
    """It is exactly 0 for some distances where heads are small and positions are in bfloat16."""
    report = check_method(reducer_of("sparsevlm-2.0"), families=("llava_next",))
    assert report.ok


@every_method
def test_autocast_changes_no_type_of_a_score(row, tiny_llava, prompt, pixels):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), reduce(tiny_llava(), reducer_of(row)) as reduction:
        assert bool(reduction.model(input_ids=prompt(), pixel_values=pixels()).logits.isfinite().all())
