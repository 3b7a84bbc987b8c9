"""Features that are kept: the same numbers, less work for the tower, and nothing taken for something else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hidrop.methods import build
from hidrop.runtime import reduce
from hidrop.runtime.feature_cache import FeatureCache
from tests.conftest import make_llava, make_llava_next, make_pixels, make_prompt
from tests.hidrop.backbones.families import batch_of, model_of
from tests.hidrop.runtime.test_llava_next import inputs


@pytest.fixture(scope="module")
def model() -> Any:
    return make_llava()


def run(model: Any, cache: FeatureCache | None, seeds: list[int], method: str = "vanilla", **fields: Any) -> Any:
    ids = torch.cat([make_prompt(seed=seed) for seed in range(len(seeds))])
    pixels = torch.cat([make_pixels(seed=seed) for seed in seeds])
    with torch.inference_mode(), reduce(model, build(method, fields), features=cache):
        return model(input_ids=ids, pixel_values=pixels).logits


def test_an_image_seen_before_costs_no_tower_and_changes_no_bit(model: Any) -> None:
    cache = FeatureCache()
    first = run(model, cache, [0, 1])
    assert (cache.hits, cache.misses) == (0, 2)
    assert torch.equal(run(model, cache, [0, 1]), first)
    assert (cache.hits, cache.misses) == (2, 2)
    torch.testing.assert_close(first, run(model, None, [0, 1]), atol=1e-5, rtol=1e-5)


def test_one_image_in_two_rows_is_encoded_once(model: Any) -> None:
    cache = FeatureCache()
    assert torch.equal(run(model, cache, [3, 3]), run(model, FeatureCache(0), [3, 3]))
    assert (cache.hits, cache.misses) == (1, 1)


def test_features_do_not_depend_on_who_else_is_in_the_batch(model: Any) -> None:
    alone, together = FeatureCache(), FeatureCache()
    run(model, alone, [2])
    run(model, together, [0, 2, 1])
    ((own,),) = alone._kept.values()
    assert any(torch.equal(own, other) for (other,) in together._kept.values())


def test_features_of_another_reference_image_are_made_again() -> None:
    """Of 12 tokens VisionZip keeps 6, or 3, by what its counts are of."""
    qwen, inputs, cache = model_of("qwen2_vl"), batch_of("qwen2_vl", [[(84, 112)]]), FeatureCache()
    for reference in (12, 24):
        logits = []
        for features in (cache, None):
            with (
                torch.no_grad(),
                reduce(
                    qwen, "visionzip", dominant=4, contextual=2, reference_tokens=reference, features=features
                ) as reduction,
            ):
                logits.append(qwen(**inputs, logits_to_keep=1).logits)
            assert reduction.trace.entering == (72 // reference,) * 6
        torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)
    assert (cache.hits, cache.misses) == (0, 2)


def test_methods_share_the_towers_features_unless_they_make_their_own(model: Any) -> None:
    cache = FeatureCache()
    run(model, cache, [0])
    run(model, cache, [0], "fastv", layer=1, keep=4)
    assert (cache.hits, cache.misses) == (1, 1)
    plain = run(model, None, [0], "downsample", side=2)
    small = run(model, cache, [0], "downsample", side=2)
    torch.testing.assert_close(small, plain, atol=1e-5, rtol=1e-5)
    run(model, cache, [0], "downsample", side=3)
    assert (cache.hits, cache.misses) == (1, 3)
    assert torch.equal(run(model, cache, [0], "downsample", side=2), small)


# Methods that read a tower with a class token, each in its own way, and one that sees the image at another size.
READERS = {
    "visionzip": {"dominant": 4, "contextual": 2},
    "fastervlm": {"keep": 5},
    "vispruner": {"keep": 6},
    "holov": {"keep": 6},
    "prumerge": {"keep": 5},
    "downsample": {"side": 2},
}


def test_methods_that_work_in_the_tower_share_its_states_and_change_no_bit(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {name: run(model, FeatureCache(0), [0, 1], name, **fields) for name, fields in READERS.items()}
    runs, tower = [], model.model.vision_tower
    forward = tower.forward
    monkeypatch.setattr(tower, "forward", lambda *args, **kwargs: (runs.append(1), forward(*args, **kwargs))[1])
    cache = FeatureCache()
    for name, fields in READERS.items():
        assert torch.equal(run(model, cache, [0, 1], name, **fields), plain[name]), name
    assert len(runs) == 2 + 2, "once for each image, and once at the other size"
    assert cache.misses == 2 * len(READERS)
    (size,) = {sum(tensor.nbytes for tensor in kept) for key, kept in cache._kept.items() if key[0] == "states"}
    assert cache.nbytes >= 2 * size
    for name, fields in READERS.items():
        cache._kept = type(cache._kept)((key, kept) for key, kept in cache._kept.items() if key[0] == "states")
        assert torch.equal(run(model, cache, [0, 1], name, **fields), plain[name]), "no method has changed the states"


def test_states_of_other_layers_of_the_tower_are_others(model: Any) -> None:
    cache, ids, pixels = FeatureCache(), make_prompt(), make_pixels()
    for features in (cache, FeatureCache(0)):
        logits = []
        for keep in (5, 6):
            with torch.inference_mode(), reduce(model, build("fastervlm", {"keep": keep}), features=features):
                for layer in (-1, -2):
                    logits.append(model(input_ids=ids, pixel_values=pixels, vision_feature_layer=layer).logits)
        if features is cache:
            kept = logits
    assert all(torch.equal(one, other) for one, other in zip(kept, logits, strict=True))


def test_other_layers_of_the_tower_are_other_features(model: Any) -> None:
    cache, ids, pixels = FeatureCache(), make_prompt(), make_pixels()
    with torch.inference_mode(), reduce(model, build("vanilla"), features=cache):
        last = model(input_ids=ids, pixel_values=pixels, vision_feature_layer=-1).logits
        before = model(input_ids=ids, pixel_values=pixels, vision_feature_layer=[-2]).logits
    assert cache.misses == 2 and not torch.equal(last, before)


def test_memory_stays_within_the_limit_and_the_longest_unused_goes_first(model: Any) -> None:
    size = 16 * 32 * 4
    cache = FeatureCache(2 * size)
    run(model, cache, [0, 1])
    run(model, cache, [0])  # 1 is now the older one
    run(model, cache, [2])
    assert cache.nbytes == 2 * size and cache.misses == 3
    run(model, cache, [0])
    assert cache.misses == 3
    run(model, cache, [1])
    assert cache.misses == 4
    nothing = FeatureCache(0)
    run(model, nothing, [0, 0])
    assert (nothing.hits, nothing.nbytes) == (0, 0)


def test_tiles_that_fill_up_a_batch_do_not_make_another_image() -> None:
    model, cache = make_llava_next(), FeatureCache()
    batch = inputs(model, [[0], [2]])
    with torch.inference_mode(), reduce(model, build("vanilla"), features=cache):
        together = model(**batch).logits
        assert torch.equal(model(**batch).logits, together)
        alone = inputs(model, [[2]])
        alone["pixel_values"] = alone["pixel_values"][:, :4]  # the image and its three tiles, without filling
        model(**alone)
    assert (cache.hits, cache.misses) == (3, 2)
    with torch.inference_mode(), reduce(model, build("vanilla")):
        torch.testing.assert_close(model(**batch).logits, together, atol=1e-5, rtol=1e-5)
