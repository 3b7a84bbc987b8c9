"""VisPruner's choice. Families without a class token, counts and refusals: test_chosen.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.vispruner import VisPruner, diverse
from tests.baselines.slow_tower_rules import slow_vispruner

SEEN = (0.05, 0.20, 0.11, 0.15, 0.08, 0.12, 0.14, 0.10)


def directions(*degrees: float) -> torch.Tensor:
    angle = torch.tensor(degrees).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_a_worked_example_in_steps_of_two():
    """Important are 1 and 3. The others, by attention: 6 5 2 7 4 0. Of 6 2 4 those nearest to 5 7 0 go: 4 and 6. Of
    2 5 7 0 both of the first group (2 and 7) go."""
    x = directions(0, 10, 30, 32, 60, 64, 90, 130)
    method = VisPruner(4, step=2)
    assert method.selected(torch.tensor([SEEN]), x[None], 4).tolist() == [[0, 1, 3, 5]]
    order = torch.tensor([[6, 5, 2, 7, 4, 0]])
    assert diverse(x[None], order, 4, 2).tolist() == [[2, 5, 7, 0]]
    assert slow_vispruner(SEEN, list(x.double()), 4, 0.5, 2) == [0, 1, 3, 5]


def test_what_is_left_of_the_first_group_comes_first_and_most_similar_first():
    """First group 0 2 4, second 1 3 5. 4 is like 5 and goes, 0 is nearer to 1 than 2 is to 3."""
    x = directions(0, 10, 90, 110, 200, 201)
    assert diverse(x[None], torch.arange(6)[None], 5, 1).tolist() == [[0, 2, 1, 3, 5]]
    x = directions(0, 20, 90, 100, 200, 201)
    assert diverse(x[None], torch.arange(6)[None], 5, 1).tolist() == [[2, 0, 1, 3, 5]]


def test_equal_similarities_drop_the_one_with_more_attention():
    x = torch.ones(1, 6, 3)
    assert diverse(x, torch.tensor([[5, 0, 4, 1, 3, 2]]), 4, 2).tolist() == [[3, 0, 1, 2]]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(1, 23), st.integers(1, 23), st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]), st.integers(1, 9), st.data())
def test_any_count_equals_the_slow_rule(patches, keep, share, step, data):
    """Odd numbers of patches, single ones, and rounds that could drop more than their group has."""
    keep = min(keep, patches)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9999)))
    seen = torch.rand(2, patches, generator=generator)
    x = torch.randn(2, patches, 5, generator=generator)
    found = VisPruner(keep, share, step).selected(seen, x, keep).tolist()
    for image in range(2):
        assert found[image] == slow_vispruner(seen[image].tolist(), list(x[image].double()), keep, share, step)


def test_the_published_settings_run_as_many_rounds_as_the_released_code(monkeypatch):
    """(576 - 2 * T_imp) / 8 rounds: 48, 56 and 64 for 192, 128 and 64 tokens."""
    x, seen = torch.randn(1, 576, 4), torch.rand(1, 576)
    inner, rounds = torch.cat, []
    monkeypatch.setattr(torch, "cat", lambda *args, **more: rounds.append(1) or inner(*args, **more))
    for keep, wanted in ((192, 48), (128, 56), (64, 64)):
        rounds.clear()
        assert VisPruner(keep).selected(seen, x, keep).shape == (1, keep)
        assert len(rounds) == wanted + 1  # and important with diverse ones


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(important=1.5), "important: 1.5 is not a share of keep; it must be in 0..1"),
        (dict(important=-0.1), "important: -0.1 is not a share"),
        (dict(step=0), "step: 0 is too few; at least 1"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields, message, tiny_llava):
    from hidrop.backbones import geometry_of

    with pytest.raises(ValueError, match=message):
        VisPruner(4, **fields).plan(geometry_of(tiny_llava().config))
