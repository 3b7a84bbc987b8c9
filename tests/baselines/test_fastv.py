from __future__ import annotations

import pytest

from baselines.fastv import FastV
from hidrop.geometry import PRESETS

LLAVA = PRESETS["llava-1.5-7b"]


@pytest.mark.parametrize(
    ("layer", "keep", "average"),
    [(2, 288, 306), (3, 288, 315), (5, 288, 333), (2, 144, 171), (3, 144, 184.5), (2, 58, 90.375), (3, 128, 170)],
)
def test_averages_of_published_settings(layer, keep, average):
    assert FastV(keep, layer).plan(LLAVA).average_tokens == average


def test_k_counts_the_layers_that_see_the_whole_image():
    assert FastV(keep=10, layer=2).plan(LLAVA).entering == (576, 576, *(10,) * 30)


def test_without_a_layer_there_is_nothing_to_score_with():
    with pytest.raises(ValueError, match="layer: 0"):
        FastV(keep=10, layer=0).plan(LLAVA)


def test_worked_example_of_the_score(view_of_logits):
    """Two heads, six tokens, visual 1..4, the last one asks."""
    rows = [[[1.0, 0.2, 0.9, -0.5, 0.4, 0.3], [0.5, 0.1, -0.3, 0.0, 1.2, 0.6]]]
    score = FastV(keep=2).score(view_of_logits(rows, queries=[5], visual=[1, 2, 3, 4]))
    assert score[0].tolist() == pytest.approx([0.119356, 0.163321, 0.082680, 0.248006], abs=1e-6)
    assert score[0].topk(2).indices.sort().values.tolist() == [1, 3]
