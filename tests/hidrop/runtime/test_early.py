"""Keys and values of the injection layer made ahead: the same answers, and the layer computes the text alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hidrop.runtime import attach, reduce
from hidrop.runtime.capture import Graphs
from tests.baselines.test_every_method import reducer_of
from tests.conftest import make_llava
from tests.hidrop.runtime.test_capture import FxRecorder, answers, batch

ROWS = ["hidrop", "hidrop-cut-on-entry", "hidrop-group", "hidrop-compacted", "hidrop-text"]


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device with side streams."""
    monkeypatch.setattr(attach, "side_streams", lambda device: True)


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("row", ROWS)
def test_answers_are_those_of_the_whole_layer(row: str, captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make_llava(kv_heads=2), batch((3, 18), (5, 9))
    plain = answers(model, reducer_of(row), inputs, None)
    monkeypatch.setattr(attach, "side_streams", lambda device: True)
    made = answers(model, reducer_of(row), inputs, Graphs(FxRecorder(), bucket=4) if captured else None)
    assert torch.equal(made[0], plain[0]) and made[2] == plain[2]
    torch.testing.assert_close(made[1], plain[1], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(("row", "layer", "tokens"), [("hidrop", 2, [16, 9]), ("hidrop-cut-on-entry", 3, [16, 9, 9])])
def test_visual_keys_are_made_once_and_the_layer_is_as_before(
    row: str, layer: int, tokens: list[int], ahead: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 visual tokens ahead, then 9 of text: by the layer and, where tokens are cut on the way in, by the score."""
    model, seen = make_llava(kv_heads=2), []
    projection, linear = model.model.language_model.layers[layer - 1].self_attn.k_proj, torch.nn.functional.linear

    def counted(hidden: Any, weight: Any, bias: Any = None) -> Any:
        if weight is projection.weight:
            seen.append(hidden.shape[1])
        return linear(hidden, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    before = dict(projection.__dict__)
    with torch.no_grad(), reduce(model, reducer_of(row)) as reduction:
        model(**batch((3, 6)), logits_to_keep=1)
        assert reduction.trace.entering == reduction.plan.entering
    assert seen[: len(tokens)] == tokens and projection.__dict__ == before


def test_training_and_methods_that_look_at_the_input_do_without(ahead: None) -> None:
    model, inputs = make_llava(kv_heads=2), batch((3, 18), (5, 9))
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    losses: list[Any] = []
    for _ in range(2):
        with reduce(model, reducer_of("hidrop")):
            losses.append(model(**inputs, labels=labels).loss.item())
    assert losses[0] == losses[1]
    assert torch.equal(*(answers(model, reducer_of("sparsevlm"), inputs, None)[0] for _ in range(2)))
