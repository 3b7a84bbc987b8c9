"""The auxiliary attention against transformers' eager attention of the same layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from hidrop.geometry import Geometry
from hidrop.methods import build
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Reducer
from hidrop.runtime import reduce

LAYER = 3
SEEN: dict[str, torch.Tensor] = {}


@dataclass(frozen=True)
class Probe(Reducer):
    """Cuts nothing, and writes down what a method could see after layer 3."""

    name: ClassVar[str] = "probe"

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(LAYER, geometry.visual_tokens),))

    def score(self, view: Any) -> torch.Tensor:
        SEEN["this"], SEEN["next"] = view.attention("this"), view.attention("next")
        SEEN["rounded"] = view.attention("next", rounded=True)
        every = view.text_queries(torch.ones_like(view.text_BT, dtype=torch.float32))
        SEEN["text"] = view.attention("this", every)
        SEEN["rank"], SEEN["slots"] = view.rank_BV, view.text_BT
        return view.attention_to_visual("this")


@pytest.fixture
def eager(tiny_llava, prompt, pixels, padded):
    """Attentions of stock eager layers, head mean, and a way to run the probe on the same batch."""

    def run(kv_heads: int, attention: str, cached: bool) -> tuple[torch.Tensor, ...]:
        batch = padded([prompt(3, 7, seed=1), prompt(5, 2, seed=2)])
        image = torch.cat([pixels(seed=1), pixels(seed=2)])
        with torch.no_grad():
            stock = tiny_llava(kv_heads=kv_heads, attention="eager")
            theirs = stock(**batch, pixel_values=image, output_attentions=True).attentions
            model = tiny_llava(kv_heads=kv_heads, attention=attention)
            with reduce(model, Probe()):
                model(**batch, pixel_values=image, use_cache=cached)
        return theirs[LAYER - 1].mean(1), theirs[LAYER].mean(1), batch["attention_mask"]

    return run


@pytest.mark.parametrize("kv_heads", [4, 2], ids=["MHA", "GQA"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("cached", [True, False], ids=["keys from the cache", "keys recomputed"])
def test_attention_equals_that_of_the_eager_layer(eager, kv_heads, attention, cached):
    this, following, _ = eager(kv_heads, attention, cached)
    torch.testing.assert_close(SEEN["this"][:, 0], this[:, -1], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(SEEN["next"][:, 0], following[:, -1], atol=1e-6, rtol=1e-4)
    for row in range(2):
        slots = SEEN["slots"][row]
        slots = slots[(slots >= 26 - (26 if row == 0 else 23))]
        got = SEEN["text"][row, -len(slots) :]
        torch.testing.assert_close(got, this[row, slots], atol=1e-6, rtol=1e-4)


def test_padding_gets_no_attention(eager):
    eager(2, "sdpa", True)
    assert (SEEN["this"][1, 0, :3] == 0).all()
    torch.testing.assert_close(SEEN["this"].sum(-1), torch.ones(2, 1))


def test_ranks_number_the_visual_tokens_of_the_row(eager):
    eager(4, "sdpa", True)
    assert SEEN["rank"].tolist() == [list(range(16))] * 2


def test_before_any_layer_there_is_no_attention_to_read(tiny_llava, prompt, pixels):
    @dataclass(frozen=True)
    class TooEarly(Probe):
        def schedule(self, geometry: Geometry) -> Schedule:
            return Schedule(cuts=(Cut(0, 4),))

    with reduce(tiny_llava(), TooEarly()) as reduction, pytest.raises(ValueError, match="cut after layer 0"):
        reduction.model(input_ids=prompt(), pixel_values=pixels())


def test_a_score_of_the_wrong_shape_is_refused(tiny_llava, prompt, pixels):
    @dataclass(frozen=True)
    class Wrong(Probe):
        def score(self, view: Any) -> torch.Tensor:
            return torch.zeros(1, 3)

    with reduce(tiny_llava(), Wrong()) as reduction, pytest.raises(ValueError, match=r"probe: score gave \(1, 3\)"):
        reduction.model(input_ids=prompt(), pixel_values=pixels())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_a_score_of_another_type_is_refused_with_the_way_out(tiny_llava, prompt, pixels, kind):
    @dataclass(frozen=True)
    class Wrong(Probe):
        def score(self, view: Any) -> torch.Tensor:
            return super().score(view).to(kind)

    words = rf"probe: score gave {str(kind)[6:]}, not float32. Start from view.visual_BVD.float\(\)"
    with reduce(tiny_llava(), Wrong()) as reduction, pytest.raises(ValueError, match=words):
        reduction.model(input_ids=prompt(), pixel_values=pixels())


def test_scores_carry_no_gradient_into_the_choice(tiny_llava, prompt, pixels):
    model, ids = tiny_llava().train(), prompt(3, 9)
    flags = []

    @dataclass(frozen=True)
    class Watched(Probe):
        def score(self, view: Any) -> torch.Tensor:
            flags.append(view.attention_to_visual("next").requires_grad)
            return view.attention_to_visual("next")

    with reduce(model, Watched()):
        model(input_ids=ids, pixel_values=pixels(), labels=ids).loss.backward()
    assert flags == [False]


def test_half_precision_scores_are_float32(tiny_llava, prompt, pixels):
    model = tiny_llava().to(torch.bfloat16)
    with reduce(model, build("hidrop", dict(inject=2, filters=[3], keep=[5], exit=6))), torch.no_grad():
        out = model(input_ids=prompt(), pixel_values=pixels().to(torch.bfloat16))
    assert out.logits.dtype == torch.bfloat16
    with reduce(model, Probe()), torch.no_grad():
        model(input_ids=prompt(), pixel_values=pixels().to(torch.bfloat16))
    assert SEEN["this"].dtype == SEEN["next"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_scores_are_the_head_mean_of_the_eager_layers_own_probabilities(dtype, tiny_llava, prompt, pixels):
    """transformers' eager attention casts its softmax to the model's type, as the released codes do."""
    ids, image = prompt(3, 7), pixels().to(dtype)
    with torch.no_grad():
        theirs = tiny_llava(kv_heads=2, attention="eager").to(dtype)(
            input_ids=ids, pixel_values=image, output_attentions=True
        )
        with reduce(tiny_llava(kv_heads=2).to(dtype), Probe()) as reduction:
            reduction.model(input_ids=ids, pixel_values=image)
    wanted = theirs.attentions[LAYER][:, :, -1].mean(1)
    assert wanted.dtype == dtype
    assert torch.equal(SEEN["rounded"], SEEN["rounded"].to(dtype).float())
    assert not torch.equal(SEEN["next"], SEEN["next"].to(dtype).float())
    torch.testing.assert_close(SEEN["rounded"][:, 0], wanted.float(), atol=2e-3, rtol=4 * torch.finfo(dtype).eps)
