"""PruMerge and PruMerge+: scores, counts, merging, and counts that differ from image to image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.outlier_merging import evenly_spaced, merged, one_big_head, outliers, raster_grid
from baselines.prumerge import PruMerge
from hidrop.backbones import backbone_class, backbone_of
from hidrop.budget import solve
from hidrop.geometry import PRESETS
from hidrop.methods import build
from hidrop.reducer import BudgetError
from hidrop.runtime import reduce
from tests.baselines.slow_model import SlowLlava
from tests.baselines.slow_tower_rules import PruMergeRule, slow_merged, slow_staying
from tests.hidrop.backbones.families import FAMILIES, model_of

SEEN = (0.30, 0.02, 0.05, 0.03, 0.25, 0.02, 0.04, 0.03)
FEATURES = ((1, 0), (2, 0), (0, 1), (0, 2), (1, 1), (4, 0), (0, 4), (2, 2))


def worked_keys() -> torch.Tensor:
    angle = torch.tensor([0.0, 10, 80, 95, 90, 180, 20, 200]).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_a_worked_example_with_three_neighbours():
    """Q1 .0275, Q3 .1, bound .20875: 0 and 4 stay. 0 takes up 1, 6 and 2; 4 takes up 3, 2 and 6."""
    seen, x, keys = torch.tensor([SEEN]), torch.tensor([FEATURES]).float(), worked_keys()[None]
    assert outliers(seen).tolist() == [2]
    found = merged(x, keys, seen, torch.tensor([[0, 4]]), 3)
    wanted = torch.tensor([[[1.04, 0.21], [1.00, 1.27], [0.18, 0.33]]])
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert slow_staying(SEEN, False, None) == [0, 4]
    slowly = torch.stack(slow_merged(SEEN, list(x[0].double()), list(keys[0].double()), [0, 4], 3))
    torch.testing.assert_close(slowly.float(), wanted[0], atol=1e-6, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(merged(x, keys, seen, torch.tensor([[0, 4]]), 3), found)


@pytest.mark.parametrize(
    ("count", "stride", "grid"),
    [(16, 12, 48), (24, 8, 72), (32, 6, 96), (40, 4, 144), (64, 3, 192), (96, 2, 288), (128, 1, 575)],
)
def test_the_grid_of_prumerge_plus_has_the_released_step(count, stride, grid):
    found = raster_grid(576, count)
    assert (found.step, len(found), found[0]) == (stride, grid, 0)
    assert 575 not in found


def test_a_grid_of_no_outliers_is_that_of_one_and_its_step_is_never_zero():
    """The released code divides by zero for the one, and cannot step by zero for more than a third."""
    assert raster_grid(576, 0) == raster_grid(576, 1) == range(0, 575, 192)
    assert raster_grid(576, 193).step == raster_grid(576, 576).step == 1
    assert list(raster_grid(1, 1)) == []


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(2, 40), st.booleans(), st.one_of(st.none(), st.integers(2, 40)), st.integers(1, 40), st.data())
def test_any_image_equals_the_slow_rule(patches, plus, keep, neighbours, data):
    """Few patches and many, no outliers and many, and more neighbours than there are patches."""
    keep = None if keep is None else min(keep, patches)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9999)))
    seen = (data.draw(st.sampled_from([0.1, 1.0, 4.0])) * torch.randn(1, patches, generator=generator)).softmax(-1)
    x, keys = (torch.randn(1, patches, 3, generator=generator) for _ in range(2))
    order = seen.argsort(dim=1, descending=True, stable=True)
    if keep is None:
        count = int(outliers(seen))
        index = order[:, :count]
        if plus:
            grid = [place for place in raster_grid(patches, count) if place not in index[0].tolist()]
            index = torch.cat([index, torch.tensor([grid], dtype=torch.long)], 1)
    else:
        others = (keep - 1) // 2 if plus else 0
        index = evenly_spaced(order, keep - 1 - others, others)
    stay = slow_staying(seen[0].tolist(), plus, keep)
    assert index[0].tolist() == stay
    assert len(set(stay)) == len(stay)
    found = merged(x, keys, seen, index, neighbours)[0].double()
    rows = seen[0].double().tolist(), list(x[0].double()), list(keys[0].double())
    torch.testing.assert_close(found, torch.stack(slow_merged(*rows, stay, neighbours)), atol=1e-5, rtol=1e-5)


def test_a_fixed_count_of_145_is_the_training_form_without_duplicates():
    """The 72 best, 72 evenly spaced among the others, and the extra one."""
    order = torch.arange(576).flip(0)[None]
    index = evenly_spaced(order, 72, 72)[0]
    assert index[:72].tolist() == list(range(575, 503, -1))
    assert index[72:].tolist() == [7 * part + 3 for part in range(72)]


def test_scores_are_one_head_of_the_layer_after_the_features(tiny_llava, pixels):
    model = tiny_llava(seed=1)
    vision = backbone_of(model).vision({"pixel_values": pixels(2)})
    with torch.no_grad():
        seen, keys, x = one_big_head(vision)
        states = model.model.vision_tower(pixels(2), output_hidden_states=True).hidden_states
        block = model.model.vision_tower.encoder.layers[1]
        normed = block.layer_norm1(states[1])
        q, k = block.self_attn.q_proj(normed), block.self_attn.k_proj(normed)
    wanted = (q @ k.transpose(1, 2) / 24**0.5).softmax(-1)[:, 0, 1:]
    torch.testing.assert_close(seen, wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(keys, k[:, 1:])
    assert torch.equal(x, states[1][:, 1:])


def test_features_of_the_last_layer_are_scored_by_that_layer_itself(tiny_llava, pixels):
    model = tiny_llava(seed=1)
    model.config.vision_feature_layer = -1
    vision = backbone_of(model).vision({"pixel_values": pixels()})
    with torch.no_grad():
        _, keys, x = one_big_head(vision)
        states = model.model.vision_tower(pixels(), output_hidden_states=True).hidden_states
        block = model.model.vision_tower.encoder.layers[1]
        wanted = block.self_attn.k_proj(block.layer_norm1(states[1]))
    torch.testing.assert_close(keys, wanted[:, 1:])
    assert torch.equal(x, states[2][:, 1:])


@pytest.mark.parametrize("plus", [False, True])
def test_both_adaptive_forms_equal_the_slow_reference(plus, tiny_llava, prompt, pixels):
    model, method, counts = tiny_llava(kv_heads=2, seed=1), PruMerge(plus=plus, neighbours=5), set()
    for seed in range(4):
        ids, image = prompt(3, 6, seed=seed), pixels(seed=seed)
        slow = SlowLlava(model, PruMergeRule(plus=plus, neighbours=5))
        wanted = slow.logits(slow.prefill(ids[0].tolist(), image)[-1])
        with reduce(model, method) as reduction, torch.no_grad():
            logits = model(input_ids=ids, pixel_values=image).logits[0, -1]
            entering = reduction.trace.entering
        torch.testing.assert_close(logits.double(), wanted, atol=2e-4, rtol=1e-4)
        assert set(entering) == {sum(t.visual for t in slow.last)}
        counts.add(entering[0])
    assert len(counts) > 1


def counts_of(model: Any, method: PruMerge, pixels: torch.Tensor) -> list[int]:
    """The tokens of each image alone."""
    vision = backbone_of(model).vision({"pixel_values": pixels})
    with torch.no_grad():
        return [int(one.any(1).sum()) for one in method.encode(vision)]


def test_every_image_of_a_batch_counts_for_itself(tiny_llava, prompt, pixels, padded):
    """A prompt with two images has the sum of theirs; one without images has none."""
    model, method, images = tiny_llava(seed=1), PruMerge(neighbours=5), pixels(4, seed=3)
    each = counts_of(model, method, images)
    assert len(set(each)) > 1
    batch = padded([prompt(3, 6), prompt(2, 4, images=2), prompt(4, 4, images=0), prompt(5, 3)])
    with reduce(model, method) as reduction, torch.no_grad():
        model(**batch, pixel_values=images)
        rows = [row[0] for row in reduction.trace.rows]
    assert rows == [each[0], each[1] + each[2], 0, each[3]]


def test_an_image_without_outliers_keeps_the_extra_token(tiny_llava, prompt, pixels):
    """A tower without any contrast: all patches get the same attention."""
    model = tiny_llava()
    for layer in model.model.vision_tower.encoder.layers:
        layer.self_attn.q_proj.weight.data.zero_()
        layer.self_attn.q_proj.bias.data.zero_()
    with reduce(model, PruMerge()) as reduction, torch.no_grad():
        model(input_ids=prompt(), pixel_values=pixels())
        assert reduction.trace.entering == (1,) * 6
    assert counts_of(model, PruMerge(plus=True), pixels()) == [4]  # 0, 5 and 10 of 16, and the extra one


def test_if_every_patch_stays_there_is_no_extra_token():
    x, seen = torch.randn(1, 5, 3), torch.rand(1, 5)
    assert merged(x, x, seen, torch.arange(5)[None], 2).shape == (1, 5, 3)
    assert merged(x, x, seen, torch.arange(4)[None], 2).shape == (1, 5, 3)
    assert merged(x.expand(2, 5, 3), x.expand(2, 5, 3), seen.expand(2, 5), torch.zeros(2, 0).long(), 2).shape[1] == 1


def test_a_budget_fixes_the_count_and_published_settings_do_not():
    llava = PRESETS["llava-1.5-7b"]
    for budget in (32, 64, 128, 192):
        method = solve("prumerge", {"plus": True}, budget, llava)
        assert (method, method.adaptive, method.bound) == (PruMerge(plus=True, keep=budget), False, "")
        assert method.plan(llava).average_tokens == budget
    assert solve("prumerge", None, "25%", llava) == PruMerge(keep=144)
    for name, plus in (("adaptive", False), ("adaptive-plus", True)):
        method = build("prumerge", {"published": name})
        assert (method, method.adaptive, method.bound) == (PruMerge(plus=plus), True, "<=")
        assert method.plan(PRESETS["llava-1.5-13b"]).entering == (576,) * 40  # the most: counts are the image's
    with pytest.raises(BudgetError, match=r"it reaches 2.00..576.00"):
        solve("prumerge", None, 1, llava)
    with pytest.raises(BudgetError, match="the budget decides keep; give one of the two"):
        solve("prumerge", {"keep": 5}, 64, llava)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "llava"])
def test_families_without_a_class_token_and_with_tiles_are_refused_in_words(name):
    why = PruMerge.refuses(backbone_class(name))
    tiles = name in ("llava_next", "llava_onevision")
    assert ("images in tiles" in why) if tiles else why.endswith("it needs a vision tower with a class token")
    with pytest.raises(ValueError, match="prumerge: .*(images in tiles|a class token)"):
        reduce(model_of(name), PruMerge(keep=4), reference_tokens=None if name == "gemma3" else 25)
    assert PruMerge.refuses(backbone_class("llava")) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(keep=1), "keep: 1 must be in 2..16, the extra token included"),
        (dict(keep=17), "keep: 17 must be in 2..16"),
        (dict(neighbours=0), "neighbours: 0 is too few; at least 1"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields, message, tiny_llava):
    with pytest.raises(ValueError, match=message):
        reduce(tiny_llava(), PruMerge(**fields))


def test_more_tokens_than_patches_are_refused(tiny_llava, pixels):
    """Strategy "full" counts the class token as one of the image's 17 visual tokens."""
    model = tiny_llava()
    model.config.vision_feature_select_strategy = "full"
    vision = backbone_of(model).vision({"pixel_values": pixels()})
    with pytest.raises(ValueError, match="keep: 17 tokens, but an image has 16 patches besides the class token"):
        PruMerge(keep=17).encode(vision)
    with torch.no_grad():
        assert PruMerge(keep=16).encode(vision)[0].any(1).tolist() == [True] * 16 + [False]
