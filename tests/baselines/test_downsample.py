"""A smaller image for towers that see images of any size; LLaVA's squares are in test_every_method.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.downsample import Downsample
from hidrop.backbones import backbone_of
from hidrop.budget import solve
from hidrop.geometry import PRESETS
from hidrop.runtime import reduce
from tests.hidrop.backbones.families import FAMILIES, model_of, picture, processor_of

QWEN = PRESETS["qwen2.5-vl-7b"]  # 1296 tokens


@pytest.mark.parametrize(
    ("side", "whole", "smaller"),
    [
        (12, (36, 36), (12, 12)),  # a ninth
        (18, (24, 32), (12, 16)),  # a quarter: half of each side
        (12, (24, 32), (8, 11)),  # 85.3 wanted: 88 is nearer than 80
        (36, (24, 32), (24, 32)),
        (12, (1, 30), (1, 3)),
        (6, (2, 2), (1, 1)),
    ],
)
def test_an_image_keeps_its_shape_and_its_share_of_tokens(side, whole, smaller):
    assert Downsample(side).smaller(*whole, QWEN) == smaller


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 36), st.integers(1, 60), st.integers(1, 60))
def test_no_side_is_further_from_the_images_shape_than_rounding(side, rows, columns):
    row, column = Downsample(side).smaller(rows, columns, QWEN)
    assert 1 <= row <= rows and 1 <= column <= columns
    assert abs(column - row * columns / rows) <= 0.5 or abs(row - column * rows / columns) <= 0.5 or 1 in (row, column)
    wanted = side**2 / 1296 * rows * columns
    assert abs(row * column - wanted) <= (rows + columns) / 2 + 1  # half of what one row and one column have


def test_a_budget_is_the_share_of_an_image_of_any_size():
    method = solve("downsample", {}, "11.1%", QWEN)
    assert method == Downsample(12)
    assert method.plan(QWEN, 768).entering == (85,) * 28
    assert Downsample(32).plan(PRESETS["qwen2-vl-7b"]).entering == (1024,) * 28  # of 1280, which are no square
    with pytest.raises(ValueError, match="an image of 1280 tokens is not a square of patches"):
        Downsample(32).plan(replace(PRESETS["qwen2-vl-7b"], dynamic=False))


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_processor_leaves_an_image_of_that_many_tokens_as_it_is(name):
    """The way that the reduction takes: the image is brought to the grid's pixels, and the processor follows."""
    backbone, (whole, tokens) = backbone_of(model_of(name)), next(iter(FAMILIES[name].sizes.items()))
    unit = backbone.patch_size * backbone.merge
    rows, columns = Downsample(2).smaller(whole[0] // unit, whole[1] // unit, backbone.geometry.counted(8))
    image = picture(whole, seed=1).resize((columns * unit, rows * unit))
    made = processor_of(name).image_processor(images=[image], return_tensors="pt")
    assert made["image_grid_thw"].tolist() == [[1, 2 * rows, 2 * columns]]
    assert 4 <= rows * columns < tokens


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "gemma3"])
def test_a_model_whose_processor_decides_refuses_in_words(name):
    title, stated = backbone_of(model_of(name)).title, {} if name == "gemma3" else {"reference_tokens": 16}
    with pytest.raises(ValueError, match=f"downsample: {title}: it takes no other image than its processor makes[;,] "):
        reduce(model_of(name), Downsample(2), **stated)
    assert "forward" not in model_of(name).__dict__


def test_tiles_are_refused_in_words():
    with pytest.raises(ValueError, match="downsample: images in tiles"):
        reduce(model_of("llava_next"), Downsample(2))
