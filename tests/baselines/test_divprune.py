"""DivPrune: distances in blocks, and ties. test_every_method.py compares its choice with a slow rule."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from baselines import divprune
from baselines.divprune import Distances, DivPrune
from hidrop.runtime import reduce


@pytest.fixture
def states() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randn(2, 90, 8, generator=torch.Generator().manual_seed(1))
    return tokens, torch.arange(90) >= torch.tensor([[0], [17]])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("block", [1, 7, 30, 89, 256])
def test_distances_of_half_of_the_pairs_are_those_of_all(block, whole, states, monkeypatch):
    tokens, valid = states
    monkeypatch.setattr(divprune, "BLOCK", block)
    monkeypatch.setattr(divprune, "WHOLE_SLOTS", 90 if whole else 89)
    found = Distances(tokens, valid)
    assert (found.all_BVV is not None) == whole
    wanted = 1 - torch.cosine_similarity(tokens.double()[:, :, None], tokens.double()[:, None], dim=-1)
    wanted.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest = wanted.masked_fill(~valid[:, None], torch.inf).amin(2)
    torch.testing.assert_close(found.nearest_BV.double()[valid], nearest[valid], atol=1e-6, rtol=0)
    wanted.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    for pick in ((0, 17), (89, 50)):
        row = found.of(torch.tensor(pick))
        torch.testing.assert_close(row.double(), wanted[[0, 1], pick], atol=1e-6, rtol=0)


def test_a_token_without_another_one_is_infinitely_far_from_its_nearest(states):
    tokens, _ = states
    found = Distances(tokens, torch.arange(90) >= torch.tensor([[89], [88]]))
    assert found.nearest_BV[0, 89] == torch.inf
    assert found.nearest_BV[1, 88] == found.nearest_BV[1, 89] < torch.inf


class Products(TorchDispatchMode):
    """Counts the numbers that matrix products give."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.numbers += made.numel() if func is torch.ops.aten.bmm.default else 0
        return made


def test_only_a_block_and_later_tokens_are_compared(states, monkeypatch):
    monkeypatch.setattr(divprune, "BLOCK", 10)
    with Products() as products:
        Distances(*states)
    assert products.numbers == 2 * 10 * sum(range(10, 91, 10))


def slow_order(cosines: list[list[float]]) -> list[int]:
    """Tokens in the order in which they are chosen; of equal ones the earlier first."""
    every = range(len(cosines))
    chosen = [max(every, key=lambda a: min((1 - cosines[a][b] for b in every if b != a), default=0))]
    while len(chosen) < len(cosines):
        rest = [a for a in every if a not in chosen]
        chosen.append(max(rest, key=lambda a: min(1 - cosines[a][b] for b in chosen)))
    return chosen


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("block", [3, 256])
def test_equal_distances_are_broken_by_the_order_of_the_tokens(block, whole, monkeypatch):
    """Entries of 1/2 and 0 with norm 1: all cosines are exact, few are different, and many tokens are equal."""
    monkeypatch.setattr(divprune, "BLOCK", block)
    monkeypatch.setattr(divprune, "WHOLE_SLOTS", 40 if whole else 39)
    generator = torch.Generator().manual_seed(3)
    tokens = torch.zeros(2, 40, 6)
    for token in tokens.flatten(0, 1):
        token[torch.randperm(6, generator=generator)[:4]] = torch.randint(2, (4,), generator=generator) - 0.5
    valid = torch.arange(40) >= torch.tensor([[0], [12]])
    for keep in (1, 9, 40):
        view: Any = SimpleNamespace(visual_BVD=tokens, valid_BV=valid, cut=SimpleNamespace(keep=keep))
        score = DivPrune(keep).score(view)
        for row, first in enumerate((0, 12)):
            own = tokens[row, first:]
            wanted = [first + place for place in slow_order((own @ own.T).tolist())][:keep]
            chosen = score[row].argsort(descending=True, stable=True)[: len(wanted)].tolist()
            assert chosen == wanted
            assert int((score[row] > 0).sum()) == len(wanted)


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
