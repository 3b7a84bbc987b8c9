from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from baselines.clustering import distances, dpc_knn
from baselines.sparsevlm import SparseVLM, recycled, scaled_layers
from hidrop.budget import solve
from hidrop.geometry import PRESETS
from hidrop.plan import Cut
from hidrop.reducer import BudgetError, Mixture
from hidrop.runtime import Prompt
from hidrop.runtime.media_table import media_table
from hidrop.runtime.scoring import Queries, View

LLAVA = PRESETS["llava-1.5-7b"]


@pytest.mark.parametrize(
    ("label", "entering", "average"),
    [
        (192, (309, 204, 113), 206.5),
        (128, (312, 117, 39), 145.40625),
        (96, (249, 55, 27), 114.09375),
        (64, (82, 32, 18), 82.25),
    ],
)
def test_published_labels_of_1_5_have_their_true_averages(label, entering, average):
    plan = SparseVLM(label).plan(LLAVA)
    first, second, third = entering
    assert plan.entering == (576,) * 3 + (first,) * 4 + (second,) * 9 + (third,) * 16
    assert plan.average_tokens == average


@pytest.mark.parametrize(("label", "average"), [(192, 206.75), (128, 144.125), (96, 113.9375), (64, 81.8125)])
def test_published_labels_of_2_0_have_their_true_averages(label, average):
    assert SparseVLM(label, version="2.0").plan(LLAVA).average_tokens == average


def test_rope_bias_is_what_the_sheet_works_out():
    """Head size 4, base 10000: angles 1 and 0.01 a position."""
    view = View.__new__(View)
    angle = torch.arange(6.0)[:, None] * torch.tensor([1.0, 0.01, 1.0, 0.01])
    object.__setattr__(view, "layer", 1)
    object.__setattr__(view, "rope", lambda layer: (angle.cos()[None], angle.sin()[None]))
    bias = view.rope_bias(Queries(torch.tensor([[5]]), torch.ones(1, 1)))[0, 0].flip(0)
    wanted = torch.tensor([2.0, 1.540252, 0.583653, 0.009558])
    torch.testing.assert_close(bias[:4], wanted, atol=1e-5, rtol=0)
    assert bias[5].item() == pytest.approx(1.282412, abs=1e-5)


@pytest.mark.parametrize(
    ("pruned", "candidates", "clusters"),
    [(276, 83, 9), (109, 33, 4), (94, 29, 3), (273, 82, 9), (202, 61, 7), (81, 25, 3), (510, 154, 16), (2, 1, 1)],
)
def test_recycling_counts(pruned, candidates, clusters):
    assert recycled(pruned) == (candidates, clusters)
    assert (int(0.3 * pruned) + 1, int(candidates / 10) + 1) == (candidates, clusters)


def test_layers_scale_with_the_depth():
    assert scaled_layers(32) == (3, 7, 16)
    assert scaled_layers(12) == (1, 3, 6)
    assert scaled_layers(4) == (1, 2, 3)


def test_a_cut_always_prunes_a_token():
    plan = SparseVLM(layers=(3,), keep=(576,)).plan(LLAVA)
    assert SparseVLM(layers=(3,), keep=(576,)).schedule(LLAVA).cuts[0].keep == 575
    assert plan.kept == 576


def test_fields_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="label"):
        SparseVLM(label=192, keep=(1, 2, 3)).plan(LLAVA)
    with pytest.raises(ValueError, match="label: 100 is not published; there are 192, 128, 96, 64"):
        SparseVLM(label=100).plan(LLAVA)
    with pytest.raises(ValueError, match="version: '3.0' is not one of '1.0', '1.5', '2.0'"):
        SparseVLM(keep=(3, 2, 1), version="3.0")
    with pytest.raises(ValueError, match="keep: 2 counts for 3 layers"):
        SparseVLM(keep=(300, 200)).plan(LLAVA)


def prompt_of(visual: list[list[float]], text: list[list[float]], question: list[bool]) -> Prompt:
    v, t = torch.tensor([visual]), torch.tensor([text])
    return Prompt(
        visual_BVD=v,
        visual_valid_BV=torch.ones(v.shape[:2], dtype=torch.bool),
        text_BTD=t,
        text_ids_BT=torch.zeros(t.shape[:2], dtype=torch.long),
        text_valid_BT=torch.ones(t.shape[:2], dtype=torch.bool),
        question_BT=torch.tensor([question]),
        media=media_table(torch.arange(v.shape[1])[None], None),
    )


VISUAL = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [1.0, 1.0]]
TEXT = [[2.0, 0.0], [0.0, 0.2], [0.5, 0.5]]


def test_worked_example_of_the_raters():
    assert SparseVLM().prepare(prompt_of(VISUAL, TEXT, [True] * 3)).tolist() == [[1, 0, 0]]


def test_text_before_the_image_does_not_rate():
    before = [[9.0, 9.0], *TEXT]
    assert SparseVLM().prepare(prompt_of(VISUAL, before, [False, True, True, True])).tolist() == [[0, 1, 0, 0]]


def test_without_a_rater_all_text_after_the_image_rates():
    """A single token, or equal ones, are never strictly above the mean."""
    assert SparseVLM().prepare(prompt_of(VISUAL, TEXT, [False, False, True])).tolist() == [[0, 0, 1]]
    same = [[2.0, 0.0], [0.5, 0.5], [0.5, 0.5]]
    assert SparseVLM().prepare(prompt_of(VISUAL, same, [False, True, True])).tolist() == [[0, 0.5, 0.5]]


def test_without_text_after_the_image_all_text_may_rate():
    assert SparseVLM().prepare(prompt_of(VISUAL, TEXT, [False] * 3)).tolist() == [[1, 0, 0]]


ROWS = [
    [[0.10, 0.20, 0.05, 0.15], [0.12, 0.08, 0.20, 0.06]],
    [[0.30, 0.05, 0.05, 0.10], [0.05, 0.10, 0.10, 0.05]],
    [[0.05, 0.25, 0.10, 0.05], [0.15, 0.05, 0.05, 0.20]],
]


@pytest.mark.parametrize(
    ("raters", "score"),
    [
        ([1.0, 0.0, 0.0], [0.110, 0.140, 0.125, 0.105]),
        ([1 / 3] * 3, [0.128333, 0.121667, 0.091667, 0.101667]),
    ],
)
def test_worked_example_of_the_score(view_of_logits, raters, score):
    """Probabilities as given for the four visual columns; what is missing to one goes to the first token."""
    logits = [
        [[math.log(1 - sum(head)), *(math.log(p) for p in head), -1e9, -1e9, -1e9] for head in row] for row in ROWS
    ]
    view = view_of_logits(logits, queries=[5, 6, 7], visual=[1, 2, 3, 4], text=[5, 6, 7], memory=torch.tensor([raters]))
    assert SparseVLM().score(view)[0].tolist() == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize(("raters", "keep"), [([1.0, 0.0, 0.0], 2), ([1 / 3] * 3, 3)])
def test_worked_example_of_the_rank(view_of_logits, raters, keep):
    """Scale 2: rank 1 keeps 2 of 4; rank 3 would keep 6, and all but one is the most. What is pruned is recycled."""
    logits = [
        [[math.log(1 - sum(head)), *(math.log(p) for p in head), -1e9, -1e9, -1e9] for head in row] for row in ROWS
    ]
    view = view_of_logits(logits, queries=[5, 6, 7], visual=[1, 2, 3, 4], text=[5, 6, 7], memory=torch.tensor([raters]))
    view = replace(view, layout=SimpleNamespace(visual_counts=(576,)))
    score, cuts = SparseVLM(version="1.0", scale=2).choose(view)
    assert cuts == (Cut(1, keep, 1),)
    torch.testing.assert_close(score, SparseVLM().score(view))


def test_version_1_has_bounds_instead_of_counts_and_no_budget():
    for label in (192, 128, 64):
        assert SparseVLM(label, version="1.0").plan(LLAVA).entering == (576,) * 32
    assert [c.after for c in SparseVLM(version="1.0").schedule(LLAVA).cuts] == [3, 7, 16, 20]
    with pytest.raises(BudgetError, match="give a label, or scale and bias, and no budget"):
        solve("sparsevlm", {"version": "1.0"}, 192, LLAVA)
    for fields, message in (
        (dict(version="1.0", keep=(3, 2, 1)), "keep: version 1.0 has no fixed counts"),
        (dict(version="1.0", label=64, scale=2.0), "label: it is the name of"),
        (dict(version="1.0", label=96), "label: 96 is not published; there are 192, 128, 64"),
        (dict(scale=2.0), "scale: a field of version 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            SparseVLM(**fields).plan(LLAVA)


def recycle(x_BMD: torch.Tensor, counts: list[int], clusters: list[int]) -> torch.Tensor:
    """The merged tokens, (B, most clusters, D), as SparseVLM makes them of its clusters."""
    member_BMC = dpc_knn(x_BMD, torch.tensor(counts), torch.tensor(clusters), max(clusters))
    return Mixture(member_BMC.transpose(1, 2), member_BMC.sum(1) + 1e-6).of(x_BMD)


POINTS = [(0, 0), (0.1, 0), (0, 0.3), (1, 1), (1.2, 1), (2, 0), (2, 0.5)]


def test_worked_example_of_the_clustering():
    x = torch.tensor([POINTS])
    merged = recycle(x, [7], [3])
    wanted = torch.tensor([[[0.033333, 0.1], [1.1, 1.0], [2.0, 0.25]]])
    torch.testing.assert_close(merged, wanted, atol=2e-6, rtol=1e-5)


def test_clustering_breaks_ties_by_index():
    """Two mutual nearest neighbours have the same density; noise decides upstream, here the earlier one is denser."""
    x = torch.tensor([[(0.0, 0.0), (0.1, 0.0), (1.0, 1.0), (1.15, 1.0), (0.0, 0.3)]])
    merged = recycle(x, [5], [2])
    torch.testing.assert_close(merged, torch.tensor([[[0.033333, 0.1], [1.075, 1.0]]]), atol=2e-6, rtol=1e-5)
    assert torch.equal(merged, recycle(x, [5], [2]))


def test_equal_tokens_are_equally_far_from_any_other():
    x = torch.randn(2, 50, 67, generator=torch.Generator().manual_seed(4))
    x[:, 31:44] = x[:, 3:16]
    found = distances(x)
    torch.testing.assert_close(found.double(), (x.double()[:, :, None] - x.double()[:, None]).norm(dim=-1))
    assert torch.equal(found[:, 31:44], found[:, 3:16])
    assert torch.equal(found, found.transpose(1, 2))
    assert (found[:, range(31, 44), range(3, 16)] == 0).all() and (found.diagonal(dim1=1, dim2=2) == 0).all()


def test_clustering_equals_the_slow_reference_row_by_row(slow_dpc_knn):
    x = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(0))
    sizes, clusters = [20, 13, 1], [4, 2, 1]
    merged = recycle(x, sizes, clusters)
    for row in range(3):
        wanted = slow_dpc_knn(list(x[row, : sizes[row]].double()), clusters[row])
        got = merged[row, : clusters[row]].double()
        torch.testing.assert_close(got, torch.stack(wanted), atol=1e-5, rtol=1e-4)


NOISE = 1e-6  # of the released code: drawn below this, added to every density


def released_cluster(
    x: list[torch.Tensor], clusters: int, seed: int
) -> tuple[list[torch.Tensor], list[float], list[float]]:
    """The released DPC-KNN, one loop at a time, with its noise: merged tokens, densities and centre scores."""
    n, noise = len(x), random.Random(seed)
    far = [[(a - b).norm().item() / math.sqrt(len(a)) for b in x] for a in x]
    density = [math.exp(-sum(d * d for d in sorted(row)[:clusters]) / clusters) + NOISE * noise.random() for row in far]
    most = max(map(max, far))
    apart = [min((far[a][b] for b in range(n) if density[b] > density[a]), default=most) for a in range(n)]
    weight = [d * distance for d, distance in zip(density, apart, strict=True)]
    centres = sorted(range(n), key=lambda a: -weight[a])[:clusters]
    near = [min(range(clusters), key=lambda c: row[centres[c]]) for row in far]
    joined = [centres.index(a) if a in centres else near[a] for a in range(n)]
    members = [[x[a] for a in range(n) if joined[a] == c] for c in range(clusters)]
    return [sum(group) / (len(group) + 1e-6) for group in members], density, weight


@pytest.mark.parametrize("clusters", [1, 3, 4, 6])
@pytest.mark.parametrize("points", [1, 2, 3])
def test_recycling_is_the_released_one_for_any_noise_if_densities_are_distinct(clusters, points):
    x = torch.randn(1, 30, 6, generator=torch.Generator().manual_seed(points), dtype=torch.float64)
    merged = recycle(x.float(), [30], [clusters])[0]
    for seed in range(8):
        wanted, density, weight = released_cluster(list(x[0]), clusters, seed)
        # What the noise can change: densities closer than it, and the best centre scores if they are that close.
        if clusters > 1:
            assert min(b - a for a, b in pairwise(sorted(density))) > NOISE
            best = sorted(weight, reverse=True)[: clusters + 1]
            assert min(a - b for a, b in pairwise(best)) > NOISE * max(weight)
        torch.testing.assert_close(merged.double(), torch.stack(wanted), atol=1e-5, rtol=1e-4)


def test_with_equal_densities_the_released_code_draws_and_ours_is_one_of_its_outcomes():
    """Of two clusters, two tokens that are each other's nearest have equal densities. Here are two such pairs."""
    x = torch.tensor([(0.0, 0.0), (0.1, 0.0), (1.0, 1.0), (1.1, 1.0), (0.0, 0.4), (0.9, 0.5)], dtype=torch.float64)

    def told(merged: list[torch.Tensor]) -> tuple[float, ...]:
        return tuple(round(v, 4) for token in merged for v in token.tolist())

    outcomes = {told(released_cluster(list(x), 2, seed)[0]) for seed in range(40)}
    assert len(outcomes) == 2
    assert told(list(recycle(x.float()[None], [6], [2])[0])) in outcomes


def test_merged_tokens_carry_gradient():
    x = torch.randn(1, 9, 4, requires_grad=True)
    recycle(x, [9], [2]).sum().backward()
    assert (x.grad != 0).all()
