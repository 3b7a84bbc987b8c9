from __future__ import annotations

import pytest

from baselines.pdrop import PDrop
from hidrop.budget import solve
from hidrop.geometry import PRESETS
from hidrop.methods import build

LLAVA = PRESETS["llava-1.5-7b"]


@pytest.mark.parametrize(
    ("ratio", "counts", "average", "tera"),
    [(0.5, (288, 144, 72), 270, 1.78), (0.4, (230, 92, 36), 233.5, 1.54), (0.6, (345, 207, 124), 313, 2.06)],
)
def test_published_ratios(ratio, counts, average, tera):
    plan = PDrop(ratio=ratio).plan(LLAVA)
    assert plan.entering == tuple(n for n in (576, *counts) for _ in range(8))
    assert plan.average_tokens == average
    assert plan.paper_macs() / 1e12 == pytest.approx(tera, abs=0.006)


def test_default_is_the_published_one():
    assert PDrop().plan(LLAVA) == PDrop(layers=(8, 16, 24), ratios=(0.5, 0.25, 0.125)).plan(LLAVA)
    assert PDrop().plan(PRESETS["llava-1.5-13b"]).entering.index(288) == 10


@pytest.mark.parametrize(
    ("layers", "target", "counts", "average"),
    [
        ([2, 8, 16], 192, (322, 180, 100), 191.4),
        ([2, 8, 16], 128, (241, 101, 42), 127.4),
        ([2, 8, 16], 64, (110, 21, 4), 63.9),
        ([8, 16, 24], 192, (145, 36, 9), 191.5),
    ],
)
def test_solved_ratios_are_those_of_the_sheet(layers, target, counts, average):
    method = solve("pdrop", {"layers": layers}, target, LLAVA)
    plan = method.plan(LLAVA)
    assert tuple(plan.entering[layer] for layer in layers) == counts
    assert plan.average_tokens == pytest.approx(average, abs=0.05)


def test_rounding_down_is_not_fooled_by_binary_fractions():
    hundred = LLAVA.with_visual_tokens(100)
    assert PDrop(layers=(8,), ratios=(0.29,)).plan(hundred).kept == 29
    assert PDrop(layers=(8,), ratios=(0.299,)).plan(hundred).kept == 29


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (PDrop(layers=(8, 16)), "ratios: 3 ratios for 2 layers"),
        (PDrop(ratios=(1.5, 0.2, 0.1)), "shares between 0 and 1"),
        (PDrop(ratios=(0.2, 0.5, 0.1)), "keep 288"),
    ],
)
def test_wrong_fields_are_named(method, message):
    with pytest.raises(ValueError, match=message):
        method.plan(LLAVA)


def test_worked_example_of_the_scores(view_of_logits):
    first = [[[1.0, 0.2, 0.9, -0.5, 0.4, 0.3], [0.5, 0.1, -0.3, 0.0, 1.2, 0.6]]]
    score = PDrop().score(view_of_logits(first, queries=[5], visual=[1, 2, 3, 4]))
    assert score[0].tolist() == pytest.approx([0.119356, 0.163321, 0.082680, 0.248006], abs=1e-6)
    second = [[[0.2, 0.7, -0.1, 0.3], [0.1, 0.0, 0.6, 0.4]]]
    score = PDrop().score(view_of_logits(second, queries=[3], visual=[1, 2]))
    assert score[0].tolist() == pytest.approx([0.275673, 0.250530], abs=1e-6)


def test_a_ratio_and_ratios_are_not_given_together():
    for name in ("pdrop", "feather"):
        fields = {"ratio": 0.5, "ratios": [0.4, 0.2, 0.1][: 2 if name == "feather" else 3]}
        with pytest.raises(ValueError, match="ratio: it stands for ratios; give one of the two"):
            build(name, fields).plan(PRESETS["llava-1.5-7b"])
