from __future__ import annotations

import torch

from hidrop.topk import keep_top, top_indices


def test_the_best_stay_in_their_original_order():
    score = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2]])
    index, kept = keep_top(score, torch.ones(1, 5, dtype=torch.bool), torch.tensor([3]), 3)
    assert index.tolist() == [[1, 2, 3]]
    assert kept.tolist() == [[False, True, True, True, False]]


def test_of_equal_scores_the_earlier_token_wins():
    score = torch.tensor([[0.5, 0.7, 0.5, 0.5, 0.7, 0.5]])
    index, _ = keep_top(score, torch.ones(1, 6, dtype=torch.bool), torch.tensor([4]), 4)
    assert index.tolist() == [[0, 1, 2, 4]]


def test_rows_keep_their_own_number_with_fillers_at_the_left():
    score = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    valid = torch.tensor([[True] * 4, [False, True, True, True]])
    index, kept = keep_top(score, valid, torch.tensor([3, 1]), 3)
    assert index.tolist() == [[0, 1, 2], [-1, -1, 3]]
    assert kept.sum(1).tolist() == [3, 1]


def test_a_filler_never_beats_a_token_however_low_that_scores():
    score = torch.tensor([[9.0, -torch.inf, -3.0e38]])
    valid = torch.tensor([[False, True, True]])
    assert sorted(top_indices(score, valid, 2)[0].tolist()) == [1, 2]


def test_keeping_nothing_is_possible():
    index, kept = keep_top(torch.rand(2, 4), torch.ones(2, 4, dtype=torch.bool), torch.tensor([0, 0]), 0)
    assert index.shape == (2, 0)
    assert not kept.any()
