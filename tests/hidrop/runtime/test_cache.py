from __future__ import annotations

from typing import Any

import pytest
import torch

from hidrop.methods import build
from hidrop.runtime import RaggedCache, reduce

METHODS = {
    "hidrop": build("hidrop", dict(inject=2, filters=[3, 4], keep=[5, 2], exit=6)),
    "pdrop": build("pdrop"),
}


@pytest.fixture(params=METHODS)
def filled(request, tiny_llava, prompt, pixels, padded) -> tuple[Any, RaggedCache]:
    """A batch of two, padded, after its prefill. Returns a function from (ids, cache) to logits, and the cache."""
    model = tiny_llava(kv_heads=2)
    batch = padded([prompt(3, 7, seed=1), prompt(5, 2, seed=2)])
    image = torch.cat([pixels(seed=1), pixels(seed=2)])

    def step(ids: torch.Tensor, cache: RaggedCache | None = None) -> Any:
        with reduce(model, METHODS[request.param]), torch.no_grad():
            if cache is None:
                return model(**batch, pixel_values=image).past_key_values
            return model(input_ids=ids, past_key_values=cache).logits

    return step, step(torch.tensor([0]))


def test_length_is_that_of_the_input_without_a_layer_and_of_the_layer_with_one(filled):
    _, cache = filled
    assert cache.get_seq_length() == 26
    assert [cache.get_seq_length(i) for i in range(6)] == list(cache.lengths)
    assert len(set(cache.lengths)) > 2
    assert cache.get_query_offset(1) == cache.lengths[1]


def test_bytes_are_those_of_the_tensors(filled):
    _, cache = filled
    assert cache.nbytes == sum(2 * 2 * 2 * n * 8 * 4 for n in cache.lengths)


def test_segments_share_what_their_layers_share(filled):
    _, cache = filled
    assert [s.first for s in cache.segments][1:] == [s.last + 1 for s in cache.segments][:-1]
    for segment in cache.segments:
        assert len({cache.lengths[i - 1] for i in range(segment.first, segment.last + 1)}) == 1
        assert segment.valid_BN.shape[1] == cache.lengths[segment.first - 1]


def test_reordering_swaps_keys_masks_and_positions(filled):
    step, cache = filled
    ids = torch.tensor([[5], [9]])
    other = step(ids)
    wanted = step(ids, cache)
    other = step(torch.tensor([0]))
    other.reorder_cache(torch.tensor([1, 0]))
    torch.testing.assert_close(step(ids.flip(0), other).flip(0), wanted, atol=1e-5, rtol=1e-5)


def test_rows_can_be_repeated_and_selected(filled):
    step, cache = filled
    ids = torch.tensor([[5], [9]])
    wanted = step(ids, step(torch.tensor([0])))
    cache.batch_repeat_interleave(2)
    many = step(ids.repeat_interleave(2, 0), cache)
    torch.testing.assert_close(many, wanted.repeat_interleave(2, 0), atol=1e-5, rtol=1e-5)
    cache.batch_select_indices(torch.tensor([3, 0]))
    follow = torch.tensor([[6], [7]])
    again = step(torch.tensor([0]))
    step(ids, again)
    torch.testing.assert_close(step(follow, cache).flip(0), step(follow.flip(0), again), atol=1e-5, rtol=1e-5)


def test_decoded_tokens_can_be_taken_back(filled):
    step, cache = filled
    lengths, ids = cache.lengths, torch.tensor([[5], [9]])
    wanted = step(ids, cache)
    step(torch.tensor([[1], [2]]), cache)
    cache.crop(-2)
    assert (cache.lengths, cache.get_seq_length()) == (lengths, 26)
    torch.testing.assert_close(step(ids, cache), wanted, atol=1e-6, rtol=1e-6)
    cache.crop(0)
    with pytest.raises(ValueError, match="negative"):
        cache.crop(3)


def test_a_reduced_cache_is_not_reset(filled):
    with pytest.raises(NotImplementedError, match="not reused"):
        filled[1].reset()
