"""DivPrune's distances in blocks; its choice itself is compared with a slow rule in test_every_method.py."""

from __future__ import annotations

import pytest
import torch

from baselines import divprune
from baselines.divprune import Distances, DivPrune
from hidrop.runtime import reduce


@pytest.fixture
def states() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randn(2, 90, 8, generator=torch.Generator().manual_seed(1))
    return tokens, torch.arange(90) >= torch.tensor([[0], [17]])


@pytest.mark.parametrize("limit", [10, 30, 89])
def test_distances_in_blocks_are_those_of_the_whole_matrix(limit, states, monkeypatch):
    tokens, valid = states
    whole = Distances(tokens)
    assert whole.all is not None
    monkeypatch.setattr(divprune, "WHOLE_SLOTS", limit)
    blocks = Distances(tokens)
    assert blocks.all is None
    torch.testing.assert_close(blocks.to_nearest(valid), whole.to_nearest(valid), atol=1e-6, rtol=0)
    index = torch.tensor([[3, 80], [50, 20]])
    torch.testing.assert_close(blocks.of(index), whole.of(index), atol=1e-6, rtol=0)
    unit = torch.nn.functional.normalize(tokens, dim=-1)
    torch.testing.assert_close(whole.of(index)[1, 0, 30], 1 - unit[1, 50] @ unit[1, 30], atol=1e-6, rtol=0)


def test_a_block_is_never_larger_than_the_limit(states, monkeypatch):
    tokens, valid = states
    monkeypatch.setattr(divprune, "WHOLE_SLOTS", 30)
    far, sizes = Distances(tokens), []
    inner = far._from
    monkeypatch.setattr(far, "_from", lambda unit: sizes.append(unit.shape[1]) or inner(unit))
    far.to_nearest(valid)
    assert sizes == [10] * 9  # 900 numbers each


def test_the_choice_in_blocks_is_that_of_the_whole_matrix(tiny_llava, prompt, pixels, padded, monkeypatch):
    model, kept = tiny_llava(kv_heads=2), []
    inputs = {**padded([prompt(3, 6), prompt(4, 9, images=2, seed=2)]), "pixel_values": pixels(3)}
    for limit in (4096, 5):
        monkeypatch.setattr(divprune, "WHOLE_SLOTS", limit)
        with reduce(model, DivPrune(keep=6)) as reduction, torch.no_grad():
            model(**inputs)
        kept.append(reduction.kept[0].rows)
    assert kept[0] == kept[1]
    assert [len(row) for row in kept[0]] == [6, 12]
