"""DART's worked examples, counts and special prompts. test_every_method.py compares its choice with a slow rule."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from baselines.dart import DART
from hidrop.budget import solve
from hidrop.geometry import PRESETS
from hidrop.methods import build
from hidrop.plan import Cut
from hidrop.reducer import BudgetError
from hidrop.runtime import reduce
from hidrop.runtime.layout import ROOM, RowCuts
from hidrop.runtime.scoring import Queries, View
from tests.baselines.slow_decoder_rules import DARTRule
from tests.baselines.slow_model import SlowLlava
from tests.hidrop.backbones.families import FAMILIES, batch_of, model_of

LLAVA = PRESETS["llava-1.5-7b"]
KEYS = [(0, 0), (1, -2), (0.5, 0.5), (-2, -2.5), (0.3, 0.2), (1, 1), (0.2, -0.9), (0.6, 0.1), (3, -1), (0.4, 0.4)]
DEGREES = [10, 0, 20, 90, 100, 45, 225, 60, 300, 30]


def example(keys: Any = KEYS, degrees: Any = DEGREES, keep: int = 5) -> View:
    """One head of two numbers, no rope, no norm: slot 0 is the system's, 1..7 are visual, 8 and 9 text."""
    attention = SimpleNamespace(head_dim=2, scaling=1.0, q_proj=lambda x: x, k_proj=lambda x: x)
    layer: Any = SimpleNamespace(self_attn=attention, input_layernorm=lambda x: x)
    states = torch.tensor([[[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees]])
    count = torch.tensor([1])
    return View(
        layer=2,
        layers=[layer] * 3,
        input_BND=torch.tensor([keys], dtype=torch.float32),
        hidden_BND=states,
        order_BN=torch.arange(len(keys))[None] * ROOM,
        rope=lambda layer: (torch.ones_like(states), torch.zeros_like(states)),
        keys=None,
        text_BT=torch.tensor([[0, 8, 9]]),
        visual_BV=torch.arange(1, 8)[None],
        queries=Queries(torch.tensor([[len(keys) - 1]]), torch.ones(1, 1)),
        cut=RowCuts(2, (Cut(2, keep),), (7,), count * keep, count * 0),
        layout=SimpleNamespace(labels=lambda order: None),  # type: ignore[arg-type]
        memory=None,
        final_norm=lambda states: states,
    )


def kept(view: View, **fields: Any) -> list[int]:
    method = DART(**{**dict(keep=5, image_pivots=2, text_pivots=1), **fields})
    return [i + 1 for i, score in enumerate(method.score(view)[0].tolist()) if score]


def test_worked_example_in_the_order_of_a_set():
    """Image pivots 3 and 1, text pivot 8: 1 takes 6, 3 takes 2, 8 takes 4."""
    assert kept(example()) == [1, 2, 3, 4, 6]


def test_worked_example_in_the_order_of_norms():
    """3 takes 6, then 1 takes 4, then 8 takes 7."""
    assert kept(example(), order="norm") == [1, 3, 4, 6, 7]


@pytest.mark.parametrize(("keep", "stay"), [(5, [1, 2, 3, 6, 7]), (6, [1, 2, 3, 4, 6, 7])])
def test_worked_example_before_the_decoder(keep, stay):
    """Slots 1, 3 and 0 are the longest: pivots 1 (0 degrees), 3 (90) and, of all text, 0 (240 degrees).

    5 stay: 1 takes 6, 3 takes 2, 0 takes 7. 6 stay: 1 takes two of the four, 6 and 4; then 3 takes 2, and 0 takes 7.
    """
    view = example(degrees=[240, *DEGREES[1:]], keep=keep)
    longer = torch.tensor([9.0, 5, 1, 4, 1, 1, 1, 1, 1, 1])
    view = replace(view, hidden_BND=view.hidden_BND * longer[:, None])
    assert kept(view, keep=keep, variant="embedding") == stay


def test_equal_norms_and_cosines_go_to_the_earlier_token():
    view = example(keys=[(1, 1)] * 10, degrees=[0] * 10)
    assert kept(view) == kept(view, order="norm") == kept(view, variant="embedding") == [1, 2, 3, 4, 5]


def test_with_less_text_than_pivots_the_others_share_and_the_count_stays():
    """Two text tokens for four pivots: six pivots take ceil(3 / 6), ceil(2 / 5), ... one each until none is left."""
    assert len(kept(example(), image_pivots=2, text_pivots=4)) == 5
    assert kept(example(), text_pivots=0) == kept(example(), text_pivots=0, order="norm")


def test_of_fewer_tokens_than_image_pivots_the_largest_stay():
    assert kept(example(keep=2), image_pivots=4) == [1, 3]
    assert kept(example(keep=7), image_pivots=4) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("label", "left", "average"), [("192", 196, 219.75), ("128", 132, 159.75), ("64", 68, 99.75)])
def test_published_settings_keep_four_more_than_they_are_called(label, left, average):
    method = build("dart", {"published": label})
    assert method.plan(LLAVA).entering == (576, 576, *(left,) * 30)
    assert method.plan(LLAVA).average_tokens == average
    assert method.published_as == label
    assert DART(left + 1).published_as is DART(left, text_pivots=3).published_as is None


@pytest.mark.parametrize(("budget", "left"), [(192, 166), (128, 98), (64, 30)])
def test_a_budget_is_a_true_average(budget, left):
    method = solve("dart", {}, budget, LLAVA)
    assert method == DART(left)
    assert method.plan(LLAVA).average_tokens == pytest.approx(budget, abs=0.5)
    assert solve("dart", {"variant": "embedding"}, budget, LLAVA).plan(LLAVA).entering == (budget,) * 32


def test_a_budget_below_the_first_layers_is_refused():
    with pytest.raises(BudgetError, match="it reaches 36.94"):
        solve("dart", {}, 30, LLAVA)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(image_pivots=0), "image_pivots: 0 and 4 of text; at least 1 and 0"),
        (dict(text_pivots=-1), "image_pivots: 4 and -1 of text"),
        (dict(layer=0), "layer: 0 leaves no keys"),
        (dict(text_pivots=7), "order: released is for up to 10 pivots, not 11; use norm"),
        (dict(variant="embedding", layer=2), "variant: embedding cuts before the decoder"),
        (dict(variant="embedding", order="released"), "leave layer and order out"),
    ],
)
def test_wrong_fields_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        DART(68, **fields).plan(LLAVA)
    assert DART(68, text_pivots=7, order="norm").plan(LLAVA).kept == 68


def test_states_are_compared_behind_the_final_norm(tiny_llava, prompt, pixels):
    """Its weights are random here: with ones, as in other tests, a cosine does not show them."""
    model, ids, image = tiny_llava(kv_heads=2, seed=3), prompt(3, 7, seed=1), pixels(seed=1)
    norm = model.model.language_model.norm.weight
    found = []
    for weights in (torch.ones_like(norm), torch.randn(norm.shape, generator=torch.Generator().manual_seed(1)) * 3):
        norm.data.copy_(weights)
        slow = SlowLlava(model, DARTRule(7))
        slow.prefill(ids[0].tolist(), image)
        with reduce(model, DART(7)) as reduction, torch.no_grad():
            model(input_ids=ids, pixel_values=image)
            found.append(reduction.kept[0].rows[0])
        assert found[-1] == slow.kept[2]
    assert found[0] != found[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_are_those_of_the_layer_whether_they_are_cached_or_made_again(name, monkeypatch):
    """With norms of keys (Qwen3), three axes of positions (Qwen), and layers with a rope of their own (Gemma 3)."""
    views: list[View] = []
    monkeypatch.setattr(DART, "score", lambda self, view: views.append(view) or view.valid_BV.float())
    model = model_of(name)
    stated = {"reference_tokens": 1000} if name not in ("llava", "gemma3", "llava_next") else {}
    with reduce(model, DART(5), **stated), torch.no_grad():
        model(**batch_of(name, [list(FAMILIES[name].sizes)[:2], list(FAMILIES[name].sizes)[:1]]))
    (view,) = views
    assert view.keys is not None
    there = view.order_BN[0] >= 0
    again = replace(view, keys=None).used_keys()
    torch.testing.assert_close(again[0, :, there], view.used_keys()[0, :, there], atol=1e-5, rtol=1e-5)
    assert torch.equal(view.used_keys(), view.keys)
