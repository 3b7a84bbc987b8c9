from __future__ import annotations

from typing import Any

import pytest
import torch

from baselines.random import Random, mix
from hidrop.backbones import backbone_of
from hidrop.runtime import reduce
from tests.hidrop.backbones.families import batch_of, model_of


def kept(model: Any, reducer: Random, seen: list[torch.Tensor], **inputs: Any) -> list[list[int]]:
    """Ranks of the visual tokens that survive, per row."""
    seen.clear()
    stated = {"reference_tokens": 24} if backbone_of(model).geometry.dynamic else {}
    with reduce(model, reducer, **stated), torch.no_grad():
        model(**inputs)
    return [sorted(set(row)) for row in seen[0].tolist()]


@pytest.fixture
def seen(monkeypatch) -> list[torch.Tensor]:
    from hidrop.runtime import decoder

    found: list[torch.Tensor] = []
    inner = decoder.keep_top

    def spy(*args: Any) -> Any:
        found.append(inner(*args))
        return inner(*args)

    monkeypatch.setattr(decoder, "keep_top", spy)
    return found


def test_subset_follows_seed_and_sample_only(tiny_llava, prompt, pixels, padded, seen):
    model, reducer = tiny_llava(), Random(keep=6, layer=1)
    prompts = [prompt(3, 4, seed=1), prompt(3, 9, seed=2)]
    images = [pixels(seed=1), pixels(seed=2)]
    single = [kept(model, reducer, seen, input_ids=p, pixel_values=i)[0] for p, i in zip(prompts, images, strict=True)]
    assert kept(model, reducer, seen, input_ids=prompts[0], pixel_values=images[0])[0] == single[0]
    for side in ("left", "right"):
        assert kept(model, reducer, seen, **padded(prompts, side), pixel_values=torch.cat(images)) == single
    assert single[0] != single[1]
    assert kept(model, Random(6, 1, seed=1), seen, input_ids=prompts[0], pixel_values=images[0])[0] != single[0]
    assert kept(model, reducer, seen, input_ids=prompts[0], pixel_values=images[1])[0] != single[0]
    assert kept(model, reducer, seen, input_ids=prompt(3, 4, seed=9), pixel_values=images[0])[0] != single[0]


def test_every_token_is_equally_likely():
    samples, tokens, keep = 4000, 20, 5
    keys = mix(torch.arange(samples)[:, None])
    number = mix(mix(keys) + torch.arange(tokens))
    chosen = (number >> 40 & 0xFFFFFF).argsort(dim=1)[:, :keep]
    counts = torch.bincount(chosen.flatten(), minlength=tokens).float()
    expected = samples * keep / tokens
    assert ((counts - expected).abs() < 5 * expected**0.5).all()


def test_hash_is_splitmix64():
    """Reference values of the generator seeded with 0 and with 1234567."""
    assert [n % 2**64 for n in mix(torch.tensor([0, 1234567])).tolist()] == [0xE220A8397B1DCDAF, 6457827717110365317]


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_images_of_any_size_are_told_apart_by_every_patch_and_by_their_shape(name, seen):
    model, reducer = model_of(name), Random(keep=9, layer=1)
    rows = [[(112, 168)], [(168, 112)]]
    inputs = batch_of(name, rows[:1])
    subset = kept(model, reducer, seen, **inputs)[0]
    patches = len(inputs["pixel_values"])
    for patch in (0, patches // 2, patches - 1):
        other = {**inputs, "pixel_values": inputs["pixel_values"].clone()}
        other["pixel_values"][patch] += 0.25
        assert kept(model, reducer, seen, **other)[0] != subset
    swapped = {**inputs, "image_grid_thw": inputs["image_grid_thw"][:, [0, 2, 1]]}
    assert (swapped["image_grid_thw"] != inputs["image_grid_thw"]).any()
    assert kept(model, reducer, seen, **swapped)[0] != subset
    single = [subset, kept(model, reducer, seen, **batch_of(name, rows[1:], seed=1))[0]]
    for side in ("left", "right"):
        both = kept(model, reducer, seen, **batch_of(name, rows, side))
        assert [[n for n in row if n >= 0] for row in both] == single
