"""What the tower's attention says of an image's tokens, against transformers' own eager attention weights."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from hidrop.backbones import attended, backbone_of
from hidrop.backbones.attended import reading, received
from tests.hidrop.backbones.families import FAMILIES, batch_of, eager_of, model_of, with_own

NAMES = with_own("attended")
SQUARES = [name for name in NAMES if name not in with_own("places")]  # Qwen's towers have a test of their own
SQUARE = 4  # tokens on a side of a square, of 8 x 8 patches


@contextmanager
def eager_weights(model: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Keys and weights (I, H, N, N) of every call of the tower's attention, as transformers computes them."""
    module: Any = importlib.import_module(type(backbone_of(model).tower).__module__)
    inner, found = module.eager_attention_forward, []

    def spy(layer: Any, query: Any, key: Any, *args: Any, **named: Any) -> Any:
        output, weights = inner(layer, query, key, *args, **named)
        found.append((key, weights))
        return output, weights

    with monkeypatch.context() as patch:
        patch.setattr(module, "eager_attention_forward", spy)
        yield found


def vision_of(name: str, model: Any) -> Any:
    """Images of different sizes, and a video where there is one."""
    return backbone_of(model).vision(batch_of(name, [list(FAMILIES[name].sizes)], videos=[FAMILIES[name].videos]))


@pytest.mark.parametrize("name", SQUARES)
def test_of_square_towers_it_is_the_mean_over_patches_of_the_last_layers_weights(name, monkeypatch):
    model = eager_of(name)
    with eager_weights(model, monkeypatch) as calls, torch.no_grad():
        vision_of(name, model).features()
    key, weights = calls[-1]
    patches = weights.mean((1, 2))[:, -64:].tolist()  # without InternViT's class token
    keys = key.mean(1)[:, -64:]
    made = backbone_of(model_of(name)).attended(vision_of(name, model_of(name)))
    assert len(made) == len(weights) > 1
    for one, seen, key in zip(made, patches, keys, strict=True):
        for token in range(SQUARE**2):
            y, x = 2 * (token // SQUARE), 2 * (token % SQUARE)
            inside = [8 * y + x, 8 * y + x + 1, 8 * y + x + 8, 8 * y + x + 9]
            assert one.received_K[token].item() == pytest.approx(sum(seen[n] for n in inside) / 4, abs=1e-6)
            torch.testing.assert_close(one.key_Kd[token], key[inside].mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "block"), [("qwen2_vl", 1), ("qwen2_5_vl", 2), ("qwen2_5_vl", 1), ("qwen3_vl", 4)])
def test_of_qwen_it_is_the_mean_over_four_patches_in_the_order_of_the_features(name, block, monkeypatch):
    """transformers calls its attention for each frame of the block (0-based) that sees all of it, or each window."""
    changes = {"vision_config": {"fullatt_block_indexes": [block]}} if name == "qwen2_5_vl" else {}
    model = FAMILIES[name].make(**changes)
    made = backbone_of(model).attended(vision_of(name, model))
    model.set_attn_implementation("eager")
    backbone, vision = backbone_of(model), vision_of(name, model)
    assert len(made) == vision.count == len(FAMILIES[name].sizes) + 1
    for number, one in enumerate(made):
        (((frames, *_),),) = vision.only(number).grids
        inside = eager_weights(model, monkeypatch), reading(backbone.projector, lambda x, **_: x), torch.no_grad()
        with inside[0] as calls, inside[1] as hidden, inside[2]:
            feature = vision.only(number).features()[0][:, : model.config.text_config.hidden_size]
        depth = len(backbone.tower.blocks)
        others = (len(calls) - frames) // (depth - 1)  # calls of each other block
        whole = calls[block * others : block * others + frames]
        seen = torch.cat([weights[0].mean((0, 1)) for _, weights in whole]).unflatten(0, (-1, 4)).mean(1)
        keys = torch.cat([key[0].mean(0) for key, _ in whole]).unflatten(0, (-1, 4)).mean(1)
        with torch.no_grad():  # where the tower has each token: its projector alone keeps the tower's order
            apart = torch.cdist(feature, backbone.projector(hidden[0]), compute_mode="donot_use_mm_for_euclid_dist")
        place = apart.argmin(1)
        assert apart.amin(1).max() < 1e-4 and len(set(place.tolist())) == len(place)
        torch.testing.assert_close(one.received_K, seen[place], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one.key_Kd, keys[place], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_features_are_the_models_own_and_an_image_does_not_depend_on_the_others(name):
    model = model_of(name)
    vision = vision_of(name, model)
    with torch.no_grad():
        made, own = backbone_of(model).attended(vision), vision.features()
        for number, (one, feature) in enumerate(zip(made, own, strict=True)):
            assert torch.equal(one.features_KD, feature)
            assert one.received_K.shape == (len(feature),) and len(one.key_Kd) == len(feature)
            (alone,) = backbone_of(model).attended(vision.only(number))
            torch.testing.assert_close(one.received_K, alone.received_K, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(one.key_Kd, alone.key_Kd, atol=1e-5, rtol=1e-4)
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", NAMES)
def test_blocks_of_queries_change_rounding_alone(name, monkeypatch):
    backbone, vision = backbone_of(model_of(name)), vision_of(name, model_of(name))
    with torch.no_grad():
        whole = backbone.attended(vision)
        monkeypatch.setattr(attended, "BLOCK_BYTES", 4000)
        blocks = backbone.attended(vision)
    for one, other in zip(whole, blocks, strict=True):
        torch.testing.assert_close(one.received_K, other.received_K, atol=1e-7, rtol=1e-6)


def test_masked_patches_receive_nothing_and_the_rest_as_much_as_without_them():
    query, key = torch.randn(2, 1, 9, 2, 4, generator=torch.Generator().manual_seed(5))
    there = torch.ones(1, 9, dtype=torch.bool)
    there[0, 7:] = False
    wanted = torch.einsum("inhd,imhd->ihnm", query, key[:, :7]).mul(0.5).softmax(-1).mean((1, 2))
    added = torch.where(there, 0.0, -torch.inf)[:, None, None]
    for mask in (there, there[:, None, None], added, there[:, None, None].expand(-1, -1, 9, -1)):
        seen = received(query, key, 0.5, mask)
        torch.testing.assert_close(seen[:, :7], wanted, atol=1e-6, rtol=1e-6)
        assert (seen[:, 7:] == 0).all()


def test_families_without_one_grid_of_patches_are_refused_in_words():
    with pytest.raises(ValueError, match="LLaVA-OneVision: this method needs images that are one grid of patches each"):
        backbone_of(model_of("llava_onevision")).attended(vision_of("llava_onevision", model_of("llava_onevision")))
