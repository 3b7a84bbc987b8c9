"""Keys and values made ahead of a layer: the same answers, and the layer computes only the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hidrop.runtime import forward, reduce
from hidrop.runtime.cuda_graphs import Graphs
from hidrop.runtime.decoder import Decoder
from tests.baselines.test_every_method import reducer_of
from tests.conftest import make_llava
from tests.hidrop.runtime.test_cuda_graphs import FxRecorder, answers, batch

ROWS = ["hidrop", "hidrop-cut-on-entry", "hidrop-group", "hidrop-compacted", "hidrop-text"]


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device with side streams."""
    monkeypatch.setattr(forward, "side_streams", lambda device: True)


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("row", ROWS)
def test_answers_are_those_of_the_whole_layer(row: str, captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = make_llava(kv_heads=2), batch((3, 18), (5, 9))
    plain = answers(model, reducer_of(row), inputs, None)
    monkeypatch.setattr(forward, "side_streams", lambda device: True)
    made = answers(model, reducer_of(row), inputs, Graphs(FxRecorder(), bucket=4) if captured else None)
    assert torch.equal(made[0], plain[0]) and made[2] == plain[2]
    torch.testing.assert_close(made[1], plain[1], atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("row", [*ROWS, "pdrop"])
def test_keys_that_a_score_has_made_are_those_of_the_next_layer(
    row: str, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = make_llava(kv_heads=2), batch((3, 18), (5, 9))
    handed = answers(model, reducer_of(row), inputs, Graphs(FxRecorder(), bucket=4) if captured else None)
    monkeypatch.setattr(Decoder, "_hands_over", lambda *_: False)
    plain = answers(model, reducer_of(row), inputs, None)
    assert torch.equal(handed[0], plain[0]) and handed[2] == plain[2]
    torch.testing.assert_close(handed[1], plain[1], atol=2e-5, rtol=2e-5)


def counted(projection: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each time that the projection's weight is used: of how many tokens."""
    seen: list[int] = []
    linear = torch.nn.functional.linear

    def counting(hidden: Any, weight: Any, bias: Any = None) -> Any:
        if weight is projection.weight:
            seen.append(hidden.shape[1])
        return linear(hidden, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", counting)
    return seen


@pytest.mark.parametrize(("training", "times"), [(False, 1), (True, 2)])
def test_such_keys_are_made_once_but_where_they_need_a_gradient(
    training: bool, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, reducer = make_llava(kv_heads=2).train(training), reducer_of("hidrop")
    filtered = reducer.filters[0]  # the score is made with the layer after it
    projection = model.model.language_model.layers[filtered].self_attn.k_proj
    seen, before = counted(projection, monkeypatch), dict(projection.__dict__)
    inputs = batch((3, 6))
    with torch.set_grad_enabled(training), reduce(model, reducer):
        model(**inputs, labels=inputs["input_ids"] if training else None)
    assert seen[0] == inputs["input_ids"].shape[1] and len(seen) == times and projection.__dict__ == before


@pytest.mark.parametrize(("row", "layer", "tokens"), [("hidrop", 2, [16, 9]), ("hidrop-cut-on-entry", 3, [16, 9, 9])])
def test_visual_keys_are_made_once_and_the_layer_is_as_before(
    row: str, layer: int, tokens: list[int], ahead: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 visual tokens ahead, then 9 of text: by the layer and, where tokens are cut on the way in, by the score."""
    model = make_llava(kv_heads=2)
    projection = model.model.language_model.layers[layer - 1].self_attn.k_proj
    seen, before = counted(projection, monkeypatch), dict(projection.__dict__)
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
