from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hidrop.topk import keep_top, marked, soft_mask, tied_counts, top_indices, uniform_rank


def test_the_best_stay_in_their_original_order():
    score = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2]])
    index = keep_top(score, torch.ones(1, 5, dtype=torch.bool), torch.tensor([3]), 3)
    assert index.tolist() == [[1, 2, 3]]
    assert marked(index, 5).tolist() == [[False, True, True, True, False]]


def test_of_equal_scores_the_earlier_token_wins():
    score = torch.tensor([[0.5, 0.7, 0.5, 0.5, 0.7, 0.5]])
    index = keep_top(score, torch.ones(1, 6, dtype=torch.bool), torch.tensor([4]), 4)
    assert index.tolist() == [[0, 1, 2, 4]]


def test_of_many_equal_scores_the_earlier_tokens_win():
    score = torch.randint(0, 3, (2, 700), generator=torch.Generator().manual_seed(0)).float()
    found = top_indices(score, torch.ones(2, 700, dtype=torch.bool), 700)
    for row, order in zip(score.tolist(), found.tolist(), strict=True):
        assert order == sorted(range(700), key=lambda i: (-row[i], i))


def test_rows_keep_their_own_number_with_fillers_at_the_left():
    score = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    valid = torch.tensor([[True] * 4, [False, True, True, True]])
    index = keep_top(score, valid, torch.tensor([3, 1]), 3)
    assert index.tolist() == [[0, 1, 2], [-1, -1, 3]]
    assert marked(index, 4).tolist() == [[True, True, True, False], [False, False, False, True]]


def test_a_filler_never_beats_a_token_however_low_that_scores():
    score = torch.tensor([[9.0, -torch.inf, -3.0e38]])
    valid = torch.tensor([[False, True, True]])
    assert sorted(top_indices(score, valid, 2)[0].tolist()) == [1, 2]


@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=1, max_size=9), st.integers(0, 9))
def test_tied_tokens_are_those_that_score_as_much_as_the_last_one_kept(tokens, k):
    score = torch.tensor([[float(number) for number, _ in tokens]])
    valid = torch.tensor([[there for _, there in tokens]])
    known = sorted((number for number, there in tokens if there), reverse=True)
    k = min(k, len(known))
    wanted = len([number for number in known if number >= known[k - 1]]) if k else 0
    assert tied_counts(score, valid, torch.tensor([k])).tolist() == [wanted]


def test_keeping_nothing_is_possible():
    index = keep_top(torch.rand(2, 4), torch.ones(2, 4, dtype=torch.bool), torch.tensor([0, 0]), 0)
    assert index.shape == (2, 0)
    assert not marked(index, 4).any()


def ranks(score: list[float]) -> list[float]:
    """c'_i = (1/n) #{j: c_i >= c_j}, of equal scores the earlier one counted as the larger."""
    n = len(score)
    return [sum((c, -i) >= (d, -j) for j, d in enumerate(score)) / n for i, c in enumerate(score)]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9), st.integers(0, 9))
def test_the_soft_mask_is_the_papers_formula_and_keeps_exactly_k(numbers, k):
    score, n, k = [x / 2 for x in numbers], len(numbers), min(k, len(numbers))
    valid = torch.ones(1, n, dtype=torch.bool)
    mask = soft_mask(torch.tensor([score], dtype=torch.float64), valid, torch.tensor([k]))[0]
    want = [1 / (1 + math.exp(-n * (rank - (1 - k / n)))) for rank in ranks(score)]
    assert mask.tolist() == pytest.approx(want)
    kept = marked(keep_top(torch.tensor([score]), valid, torch.tensor([k]), k), n)
    assert (mask > 0.5).tolist() == kept[0].tolist()


def test_fillers_have_no_part_in_the_soft_mask():
    score, valid = torch.tensor([[9.0, 0.3, 0.1, 0.2]]), torch.tensor([[False, True, True, True]])
    alone = soft_mask(score[:, 1:], valid[:, 1:], torch.tensor([2]))
    assert torch.allclose(soft_mask(score, valid, torch.tensor([2])), torch.cat([torch.zeros(1, 1), alone], 1))


def test_the_gradient_of_the_soft_mask_is_its_formula():
    """n m (1 - m) du_i/dc_j, with u = 1/2 + (c - mean) / sqrt(12 variance) and m at the true ranks."""
    torch.manual_seed(0)
    score = torch.rand(1, 7, dtype=torch.float64, requires_grad=True)
    n, valid = 7, torch.ones(1, 7, dtype=torch.bool)
    mask = soft_mask(score, valid, torch.tensor([3]))[0]
    found = torch.stack([torch.autograd.grad(m, score, retain_graph=True)[0][0] for m in mask])
    c = score[0].tolist()
    mean = sum(c) / n
    sigma = math.sqrt(sum((x - mean) ** 2 for x in c) / n)
    z = [(x - mean) / sigma for x in c]
    for i, m in enumerate(mask.tolist()):
        for j in range(n):
            slope = ((i == j) - 1 / n - z[i] * z[j] / n) / (sigma * math.sqrt(12))
            assert found[i, j].item() == pytest.approx(n * m * (1 - m) * slope, abs=1e-12)


def test_a_row_of_a_batch_has_the_gradient_that_it_has_alone():
    torch.manual_seed(2)
    scores = torch.rand(3, 6, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[True] * 6, [False, False, True, True, True, True], [True, False, True, False, True, False]])
    keep, weight = torch.tensor([2, 3, 1]), torch.rand(3, 6, dtype=torch.float64)
    (soft_mask(scores, valid, keep) * weight).sum().backward()
    for row in range(3):
        alone = scores.detach()[row : row + 1, valid[row]].requires_grad_()
        mask = soft_mask(alone, torch.ones_like(alone, dtype=torch.bool), keep[row : row + 1])
        (mask * weight[row, valid[row]]).sum().backward()
        assert scores.grad[row, valid[row]].tolist() == pytest.approx(alone.grad[0].tolist())
        assert scores.grad[row, ~valid[row]].tolist() == [0.0] * int((~valid[row]).sum())


def test_the_stand_in_for_the_rank_agrees_with_finite_differences():
    torch.manual_seed(1)
    score = torch.rand(2, 6, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[True] * 6, [False, False, True, True, True, True]])
    assert torch.autograd.gradcheck(lambda c: uniform_rank(c, valid), score)
    assert uniform_rank(score, valid)[1, 2:].mean().item() == pytest.approx(0.5)
    for row in (0, 1):
        assert uniform_rank(score, valid)[row][valid[row]].var(correction=0).item() == pytest.approx(1 / 12)


def test_rows_without_a_rank_to_tell_get_one_half_and_no_gradient():
    """Equal scores, one valid token, or none."""
    score = torch.tensor([[0.2, 0.2, 0.2], [0.1, 0.7, 0.3], [0.5, 0.1, 0.9]], dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[True, True, True], [False, True, False], [False, False, False]])
    found = uniform_rank(score, valid)
    assert found.tolist() == [[0.5] * 3] * 3
    found.sum().backward()
    assert score.grad.tolist() == [[0.0] * 3] * 3


def test_equal_scores_have_no_gradient_instead_of_an_infinite_one():
    score = torch.full((1, 5), 0.2, requires_grad=True)
    soft_mask(score, torch.ones(1, 5, dtype=torch.bool), torch.tensor([2])).sum().backward()
    assert score.grad.tolist() == [[0.0] * 5]
