"""HoloV's quotas, choice and order. Families without a class token, counts and refusals: test_chosen.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.class_attention import class_attention
from baselines.crops import quotas, scores
from baselines.holov import HoloV
from hidrop.backbones import backbone_of
from tests.baselines.slow_tower_rules import slow_holov, slow_quotas

SEEN = (0.10, 0.05, 0.02, 0.01, 0.20, 0.08, 0.07, 0.12)


def worked_features() -> torch.Tensor:
    angle = torch.tensor([0.0, 20, 45, 90, 10, 15, 100, 170]).deg2rad()
    length = torch.tensor([1.0, 2, 1, 3, 1, 1, 2, 1])
    return torch.stack([angle.cos(), angle.sin()], 1) * length[:, None]


def test_a_worked_example_of_two_crops():
    """Shares .277 and .723 of 5 tokens: 1 and 3, and the one left over goes to the second, which stays whole."""
    x, seen = worked_features(), torch.tensor([SEEN])
    assert HoloV(5, crops=2).selected(seen, x[None], 5).tolist() == [[0, 4, 5, 6, 7]]
    assert slow_holov(SEEN, list(x.double()), 5, 2) == [0, 4, 5, 6, 7]
    weights, sizes = torch.tensor([[49.049981, 128.074975]]), torch.tensor([4, 4])
    assert quotas(weights, sizes, 5).tolist() == [[1, 4]]
    assert quotas(weights, sizes, 4).tolist() == [[1, 3]]


def test_the_score_of_a_patch_is_its_attention_and_its_share_of_the_crops_variety():
    x, seen = worked_features().reshape(1, 2, 4, 2), 1000 * torch.tensor(SEEN).reshape(1, 2, 4)
    valid, size = torch.ones(2, 4, dtype=torch.bool), torch.tensor([4, 4])
    score = scores(seen, x, valid, size, alpha=0.09)
    torch.testing.assert_close(score.mean(-1), torch.tensor([[49.049981, 128.074975]]), atol=1e-3, rtol=0)
    variety = torch.tensor([0.260121, 0.252506, 0.208255, 0.124128])
    wanted = seen[0, 0] + 0.09 * seen[0, 0].mean() / variety.mean() * variety
    torch.testing.assert_close(score[0, 0], wanted, atol=1e-3, rtol=0)


def test_a_crop_gives_its_best_patch_first_and_a_whole_crop_keeps_its_order():
    seen, x = torch.tensor([[0.1, 0.2, 0.3, 0.001, 0.002, 0.0001]]), torch.randn(1, 6, 4)
    assert HoloV(2, crops=2).selected(seen, x, 2).tolist() == [[2, 1]]
    assert HoloV(3, crops=2).selected(seen, x, 3).tolist() == [[0, 1, 2]]


def test_what_a_crop_cannot_take_goes_to_the_crop_with_the_next_largest_share():
    sizes = torch.tensor([3, 3, 3])
    assert quotas(torch.tensor([[0.01, 9.0, 0.9]]), sizes, 7).tolist() == [[1, 3, 3]]
    assert quotas(torch.tensor([[0.9, 9.0, 0.01]]), sizes, 5).tolist() == [[2, 3, 0]]
    assert quotas(torch.tensor([[1.0, 1.0, 1.0]]), sizes, 4).tolist() == [[2, 1, 1]]  # of equal shares the first one


def test_released_holov_is_attention_with_quotas_by_the_mean_attention_of_each_run():
    """The variety of a crop cancels in its share, and the choice in a crop uses attention alone."""
    generator = torch.Generator().manual_seed(3)
    seen = (2 * torch.randn(1, 577, generator=generator)).softmax(-1)[:, 1:]
    x = torch.randn(1, 576, 64, generator=generator)
    (found,) = HoloV(64).selected(seen, x, 64).tolist()
    means = [1090 * seen[0, first : first + 36].mean().item() for first in range(0, 576, 36)]
    wanted: list[int] = []
    for crop, quota in enumerate(slow_quotas(means, [36] * 16, 64)):
        run = range(36 * crop, 36 * crop + 36)
        wanted += sorted(run, key=lambda i: (-seen[0, i].item(), i))[:quota]
    assert found == wanted
    (other,) = HoloV(64, alpha=2.0, pick="score").selected(seen, x, 64).tolist()
    assert set(other) != set(found)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(1, 23),
    st.integers(1, 23),
    st.sampled_from([1, 2, 3, 5, 16]),
    st.sampled_from([0.0, 0.09, 2.0]),
    st.booleans(),
    st.integers(0, 9999),
)
def test_any_count_and_any_crops_equal_the_slow_rule(patches, keep, crops, alpha, by_score, seed):
    """Crops of unequal length, of one patch, and more crops than patches; attention so uneven that quotas run over."""
    keep = min(keep, patches)
    generator = torch.Generator().manual_seed(seed)
    seen = torch.rand(2, patches, generator=generator).softmax(-1) ** (1 + seed % 3 * 8)
    seen = seen / seen.sum(1, keepdim=True)
    x = torch.randn(2, patches, 5, generator=generator)
    method = HoloV(keep, crops, alpha, "score" if by_score else "attention")
    found = method.selected(seen, x, keep).tolist()
    for image in range(2):
        wanted = slow_holov(seen[image].double().tolist(), list(x[image].double()), keep, crops, alpha, by_score)
        assert found[image] == wanted


def test_the_decoder_gets_projected_tokens_in_the_order_of_the_choice(tiny_llava, pixels):
    vision = backbone_of(tiny_llava(seed=1)).vision({"pixel_values": pixels(2, seed=5)})
    method = HoloV(7, crops=2)
    with torch.no_grad():
        tower = class_attention(vision)
        projected = vision.project(tower.patches_IPD)
        index = method.selected(tower.mean_IP, projected, 7)
        made = method.encode(vision)
    assert index.tolist() != index.sort(dim=1).values.tolist()
    for image in range(2):
        torch.testing.assert_close(made[image][:7], projected[image, index[image]])
        assert not made[image][7:].any()


def test_no_crops_are_refused(tiny_llava):
    from hidrop.backbones import geometry_of

    with pytest.raises(ValueError, match="crops: 0 is too few; at least 1"):
        HoloV(4, crops=0).plan(geometry_of(tiny_llava().config))
    with pytest.raises(ValueError, match="pick: 'both' is not one of 'attention', 'score'"):
        HoloV(4, pick="both")
