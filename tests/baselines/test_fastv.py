from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baselines.fastv import FastV
from hidrop.geometry import PRESETS
from hidrop.hidrop import HiDrop
from hidrop.runtime import reduce, scoring
from hidrop.runtime.scoring import View

LLAVA = PRESETS["llava-1.5-7b"]


@pytest.mark.parametrize(
    ("layer", "keep", "average"),
    [(2, 288, 306), (3, 288, 315), (5, 288, 333), (2, 144, 171), (3, 144, 184.5), (2, 58, 90.375), (3, 128, 170)],
)
def test_averages_of_published_settings(layer, keep, average):
    assert FastV(keep, layer).plan(LLAVA).average_tokens == average


def test_k_counts_the_layers_that_see_the_whole_image():
    assert FastV(keep=10, layer=2).plan(LLAVA).entering == (576, 576, *(10,) * 30)


def test_without_a_layer_there_is_nothing_to_score_with():
    with pytest.raises(ValueError, match="layer: 0"):
        FastV(keep=10, layer=0).plan(LLAVA)


def test_worked_example_of_the_score(view_of_logits):
    """Two heads, six tokens, visual 1..4, the last one asks."""
    rows = [[[1.0, 0.2, 0.9, -0.5, 0.4, 0.3], [0.5, 0.1, -0.3, 0.0, 1.2, 0.6]]]
    score = FastV(keep=2).score(view_of_logits(rows, queries=[5], visual=[1, 2, 3, 4]))
    assert score[0].tolist() == pytest.approx([0.119356, 0.163321, 0.082680, 0.248006], abs=1e-6)
    assert score[0].topk(2).indices.sort().values.tolist() == [1, 3]


def test_worked_example_of_the_mean_over_all_queries(view_of_logits):
    """The paper's text instead of its code: early columns win, because more queries can see them."""
    rows = [[[(((3 * i + 5 * j + 7 * h * (i + 1)) % 7) - 3) / 4 for j in range(6)] for h in (0, 1)] for i in range(5)]
    rows.append([[1.0, 0.2, 0.9, -0.5, 0.4, 0.3], [0.5, 0.1, -0.3, 0.0, 1.2, 0.6]])
    view = view_of_logits(rows, queries=list(range(6)), visual=[1, 2, 3, 4])
    score = FastV(keep=2, query="all").score(view)
    assert score[0].tolist() == pytest.approx([0.179242, 0.143921, 0.109524, 0.073485], abs=1e-6)


def masked_logits(model: Any, scores: torch.Tensor, ids: torch.Tensor, image: torch.Tensor, layer: int, keep: int):
    """FastV by masking, with transformers alone: nothing is dropped, later layers just do not see what was not kept."""
    visual = (ids[0] == 99).nonzero()[:, 0]
    seen = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
    seen[:, visual[scores[visual].argsort(descending=True, stable=True)[keep:]]] = False
    seen.fill_diagonal_(True)  # a hidden token sees itself, so that no row is empty; nothing reads such a row

    def hide(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": seen[None, None]}

    hooks = [m.register_forward_pre_hook(hide, with_kwargs=True) for m in model.model.language_model.layers[layer:]]
    try:
        with torch.no_grad():
            return model(input_ids=ids, pixel_values=image).logits[:, -1]
    finally:
        for hook in hooks:
            hook.remove()


@given(
    layer=st.integers(1, 5),
    keep=st.integers(1, 16),
    before=st.integers(1, 6),
    after=st.integers(1, 6),
    kv_heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 50),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_dropping_tokens_equals_masking_them(tiny_llava, prompt, pixels, layer, keep, before, after, kv_heads, seed):
    # transformers' eager attention gives the probabilities, but in float32: the comparison runs on SDPA.
    eager, model = (tiny_llava(kv_heads=kv_heads, attention=a, seed=seed).double() for a in ("eager", "sdpa"))
    ids, image = prompt(before, after, seed=seed), pixels(seed=seed).double()
    with torch.no_grad():
        attention = eager(input_ids=ids, pixel_values=image, output_attentions=True).attentions[layer - 1]
    masked = masked_logits(model, attention[0, :, -1].mean(0), ids, image, layer, keep)
    with reduce(model, FastV(keep, layer)), torch.no_grad():
        dropped = model(input_ids=ids, pixel_values=image, logits_to_keep=1).logits[:, -1]
    torch.testing.assert_close(dropped, masked, atol=1e-11, rtol=1e-11)


def test_choosing_again_is_what_generation_without_a_cache_does(tiny_llava, prompt, pixels, padded):
    """And the frozen choice is something else: so the option changes answers, not only time."""
    model, settings = tiny_llava(kv_heads=2, seed=4), dict(max_new_tokens=8, do_sample=False, suppress_tokens=[99])
    batch = padded([prompt(3, 7, seed=1), prompt(5, 2, seed=2)])
    image = torch.cat([pixels(seed=1), pixels(seed=2)])
    logits = {}
    for rechosen in (True, False):
        with reduce(model, FastV(keep=2, layer=1, rechosen=rechosen)):
            for cached in (True, False):
                out = model.generate(
                    **batch, pixel_values=image, **settings, use_cache=cached,
                    return_dict_in_generate=True, output_logits=True,
                )  # fmt: skip
                logits[rechosen, cached] = torch.stack(out.logits)
    torch.testing.assert_close(logits[True, True], logits[True, False], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[True, True], logits[False, False], atol=1e-5, rtol=1e-5)
    assert (logits[True, True] - logits[False, True]).abs().max() > 1e-3


def test_a_choice_made_again_can_be_taken_back(tiny_llava, prompt, pixels):
    model, more = tiny_llava(), torch.tensor([[5, 6, 7]])
    with reduce(model, FastV(keep=2, layer=1, rechosen=True)), torch.no_grad():
        cache = model(input_ids=prompt(), pixel_values=pixels()).past_key_values
        wanted = model(input_ids=more[:, :2], past_key_values=cache).logits[:, -1]
        model(input_ids=more[:, 2:], past_key_values=cache)
        cache.crop(-2)
        again = model(input_ids=more[:, 1:2], past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(again, wanted)


@pytest.mark.parametrize("method", ["fastv", "hidrop"])
def test_many_queries_are_scored_in_blocks_with_the_same_result(
    method, tiny_llava, prompt, pixels, padded, monkeypatch
):
    """A block holds no more probabilities than the limit, and one block is all that LLaVA's prompts need."""
    rows = {"fastv": FastV(keep=5, query="all"), "hidrop": HiDrop(2, (3, 4), (5, 2), 6, query="text")}
    model, inner, found, sizes = tiny_llava(kv_heads=2), View._probabilities, [], []

    def spy(view: Any, *args: Any, **named: Any) -> torch.Tensor:
        made = inner(view, *args, **named)
        sizes.append(made[0].nbytes)
        return made

    monkeypatch.setattr(View, "_probabilities", spy)
    batch = {**padded([prompt(3, 7, seed=1), prompt(5, 2, seed=2)]), "pixel_values": pixels(2)}
    for limit in (scoring.BLOCK_BYTES, 4 * 4 * 26 * 3):  # three queries of 4 heads and 26 tokens
        monkeypatch.setattr(scoring, "BLOCK_BYTES", limit)
        sizes.clear()
        with reduce(model, rows[method]) as reduction, torch.no_grad():
            logits = model(**batch).logits
        found.append((reduction.kept, logits))
        assert max(sizes) <= limit
        assert len(sizes) > 2 if len(found) == 2 else len(sizes) <= 2
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=1e-6)


def test_means_in_blocks_differ_by_rounding_alone(view_of_logits, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, 3, 40, generator=generator).tolist()
    view = view_of_logits(logits, queries=list(range(40)), visual=list(range(1, 30)))
    whole = view.attention_to_visual("this"), view.attention("this")
    monkeypatch.setattr(scoring, "BLOCK_BYTES", 4 * 3 * 40 * 7)
    blocks = view.attention_to_visual("this"), view.attention("this")
    torch.testing.assert_close(blocks[0], whole[0], atol=1e-6, rtol=0)
    assert torch.equal(blocks[1], whole[1])
