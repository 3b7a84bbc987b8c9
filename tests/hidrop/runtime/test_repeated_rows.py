"""Beams: the images of a repeated row are those of the row, whatever a family's pixels look like."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hidrop.backbones import BACKBONES, backbone_of
from hidrop.runtime.repeated_rows import repeat_images
from tests.hidrop.backbones.families import FAMILIES, batch_of, model_of

every_family = pytest.mark.parametrize("name", [*BACKBONES])
WITH_VIDEO = [name for name, family in FAMILIES.items() if family.videos]


def features(name: str, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    vision = backbone_of(model_of(name)).vision(inputs)
    assert vision is not None
    with torch.no_grad():
        return vision.features()


def repeated(name: str, inputs: dict[str, torch.Tensor], times: int) -> dict[str, torch.Tensor]:
    backbone = backbone_of(model_of(name))
    images = {key: inputs[key] for key in backbone.image_inputs if key in inputs}
    return repeat_images(backbone, images, inputs["input_ids"], times)


@every_family
def test_the_images_of_a_row_stay_together_when_it_is_repeated(name: str) -> None:
    """Rows with two images, none and one: twice the features of the first, then twice those of the last."""
    sizes = [*FAMILIES[name].sizes]
    rows: list[list[Any]] = [sizes[:2], [], sizes[-1:]]
    inputs = batch_of(name, rows)
    first, made = len(features(name, batch_of(name, rows[:2]))), features(name, inputs)
    once, last = made[:first], made[first:]
    assert once and last
    found = features(name, repeated(name, inputs, 2))
    torch.testing.assert_close(found, once * 2 + last * 2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", WITH_VIDEO)
def test_the_videos_of_a_row_stay_together_when_it_is_repeated(name: str) -> None:
    family = FAMILIES[name]
    inputs = batch_of(name, [[*family.sizes][:1], [], []], videos=[family.videos, (), family.videos])
    image, first, last = features(name, inputs)
    found = features(name, repeated(name, inputs, 3))
    torch.testing.assert_close(found, [image] * 3 + [first] * 3 + [last] * 3, atol=1e-5, rtol=1e-5)


def test_placeholders_that_end_within_an_image_are_refused() -> None:
    inputs = batch_of("qwen2_vl", [[(84, 112)], [(56, 140)]])
    ids = inputs["input_ids"].clone()
    placeholders = (ids[0] == backbone_of(model_of("qwen2_vl")).placeholder_id).nonzero()
    ids[0, placeholders[-1]] = 40
    with pytest.raises(ValueError, match="give each prompt the placeholders of whole images"):
        repeated("qwen2_vl", {**inputs, "input_ids": ids}, 2)
