"""Every method against its slow rule over random shapes: heads, depth, prompts, images, batch and padding."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hidrop.runtime import reduce
from tests.baselines.slow_rules import RULES
from tests.baselines.test_every_method import METHODS, reducer_of
from tests.conftest import IMAGE, make_llava, make_pixels, pad

# Their layers follow from the depth, and the slow rules are written for six.
SIX_LAYERS = ("pdrop", "pdrop-persistent", "sparsevlm", "sparsevlm-2.0", "sparsevlm-1.0", "feather")
# Their slow rules are written for one image.
ONE_IMAGE = ("sparsevlm", "sparsevlm-strong", "sparsevlm-2.0", "sparsevlm-2.0-strong", "pool")
ONE_IMAGE += ("sparsevlm-1.0", "sparsevlm-1.0-strong")
ONE_IMAGE += tuple(row for row in METHODS if row.startswith("stack-"))
ONE_IMAGE += ("visionzip", "visionzip-one", "downsample", "downsample-odd")
ONE_IMAGE += ("fastervlm", "vispruner", "vispruner-step", "holov", "holov-score")
ONE_IMAGE += ("prumerge", "prumerge-keep", "prumerge-plus")
NEW = 2

words = st.lists(st.integers(3, IMAGE - 1), min_size=1, max_size=7)


@functools.cache
def model_of(kv_heads: int, layers: int) -> Any:
    return make_llava(kv_heads=kv_heads, layers=layers, seed=11)


@st.composite
def requests(draw: st.DrawFn, images: int) -> tuple[list[int], int]:
    """Ids of a prompt, an image between any two runs of words (or at the very start), and its number of images."""
    ids = [1, *draw(st.one_of(st.just([]), words))]
    count = draw(st.integers(1, images))
    for _ in range(count):
        ids += [IMAGE] * 16 + draw(words)
    return ids, count


@pytest.mark.parametrize("row", [row for row in METHODS if row in RULES])
def test_any_batch_of_prompts_equals_the_slow_reference(row: str, slow_llava: Any) -> None:
    depth = st.just(6) if row in SIX_LAYERS else st.integers(6, 8)
    prompts = st.lists(requests(1 if row in ONE_IMAGE else 3), min_size=1, max_size=3)

    @settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from([4, 2, 1]), depth, prompts, st.sampled_from(["left", "right"]), st.integers(0, 99))
    def check(kv_heads: int, layers: int, batch: list[tuple[list[int], int]], side: str, seed: int) -> None:
        model = model_of(kv_heads, layers)
        images = [make_pixels(count, seed=seed + i) for i, (_, count) in enumerate(batch)]
        with reduce(model, reducer_of(row)):
            out = model.generate(
                **pad([torch.tensor([ids]) for ids, _ in batch], side),
                pixel_values=torch.cat(images),
                max_new_tokens=NEW,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        for i, (ids, _) in enumerate(batch):
            numbers, logits = slow_llava(model, row).greedy(ids, images[i], NEW)
            assert out.sequences[i, -NEW:].tolist() == numbers
            got = torch.stack([step[i] for step in out.logits]).double()
            torch.testing.assert_close(got, torch.stack(logits), atol=3e-4, rtol=1e-4)

    check()
