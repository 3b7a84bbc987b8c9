"""Positions of three axes, by value. The values are worked out by hand from the models' reports, not by running code.

Qwen2-VL's report, figure 3: a text of 3 words, a video of 3 frames of 2 x 2 tokens at positions 3.., and the text
after it one more than the largest number before it. Qwen2.5-VL's report: time in steps of seconds x tokens_per_second.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hidrop.backbones import backbone_of
from hidrop.backbones.model_inputs import IMAGE, TEXT, VIDEO
from hidrop.backbones.mrope import Runs, three_axes
from tests.hidrop.backbones.families import FAMILIES, batch_of, model_of, row_of


def runs(*each: tuple[int, int, int, float]) -> Runs:
    frames, rows, columns, interval = zip(*each, strict=True)
    return Runs(torch.tensor(frames), torch.tensor(rows), torch.tensor(columns), torch.tensor(interval).double())


def positions(kinds: list[int], given: Runs | None, padding: int = 0) -> tuple[list[list[int]], int]:
    """Positions of a row after `padding` empty places, and the next one."""
    valid = torch.tensor([[False] * padding + [True] * len(kinds)])
    places = three_axes(valid, torch.tensor([[TEXT] * padding + kinds]), given)
    return places.position_PBS[:, 0, padding:].tolist(), int(places.next_B[0])


def test_text_alone_counts_on_all_axes() -> None:
    assert positions([TEXT] * 4, None) == ([[0, 1, 2, 3]] * 3, 4)


@pytest.mark.parametrize("padding", [0, 3])
def test_an_image_counts_rows_and_columns_from_its_start(padding: int) -> None:
    """Two words, an image of 2 x 3 tokens at 2, and text from 2 + max(1, 2, 3) = 5."""
    kinds = [TEXT] * 2 + [IMAGE] * 6 + [TEXT] * 2
    time = [0, 1, 2, 2, 2, 2, 2, 2, 5, 6]
    height = [0, 1, 2, 2, 2, 3, 3, 3, 5, 6]
    width = [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]
    assert positions(kinds, runs((1, 2, 3, 1.0)), padding) == ([time, height, width], 7)


def test_the_video_of_the_reports_figure() -> None:
    """Three words, 3 frames of 2 x 2 tokens one number apart, and text from 3 + max(3, 2, 2) = 6."""
    kinds = [TEXT] * 3 + [VIDEO] * 12 + [TEXT]
    time = [0, 1, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 6]
    height = [0, 1, 2, 3, 3, 4, 4, 3, 3, 4, 4, 3, 3, 4, 4, 6]
    width = [0, 1, 2, 3, 4, 3, 4, 3, 4, 3, 4, 3, 4, 3, 4, 6]
    assert positions(kinds, runs((3, 2, 2, 1.0))) == ([time, height, width], 7)


def test_frames_half_a_second_apart() -> None:
    """Four numbers a second, frames 0.5 s apart: two numbers a frame, and text from 1 + max(2 * 2 + 1, 1) = 6."""
    kinds = [TEXT] + [VIDEO] * 3 + [TEXT]
    assert positions(kinds, runs((3, 1, 1, 0.5 * 4)))[0] == [[0, 1, 3, 5, 6], [0, 1, 1, 1, 6], [0, 1, 1, 1, 6]]


def test_frames_a_part_of_a_number_apart_are_rounded_down_each() -> None:
    """1.5 numbers a frame: frames at 0, 1.5, 3, 4.5 and so at 0, 1, 3, 4."""
    assert positions([VIDEO] * 4, runs((4, 1, 1, 1.5))) == ([[0, 1, 3, 4], [0] * 4, [0] * 4], 5)


def test_a_prompt_that_ends_in_an_image_goes_on_after_its_largest_number() -> None:
    assert positions([TEXT] + [IMAGE] * 4, runs((1, 1, 4, 1.0)))[1] == 5


def test_images_of_two_rows_are_told_apart() -> None:
    """Row 0: an image of 1 x 2 and one of 2 x 1 without text between them. Row 1: padding and an image of 3 x 1."""
    kinds = torch.tensor([[IMAGE] * 4 + [TEXT], [TEXT] * 2 + [IMAGE] * 3])
    valid = torch.tensor([[True] * 5, [False, True, True, True, True]])
    places = three_axes(valid, kinds, runs((1, 1, 2, 1.0), (1, 2, 1, 1.0), (1, 3, 1, 1.0)))
    assert places.position_PBS[:, 0].tolist() == [[0, 0, 2, 2, 4], [0, 0, 2, 3, 4], [0, 1, 2, 2, 4]]
    assert places.position_PBS[:, 1, 1:].tolist() == [[0, 1, 1, 1], [0, 1, 2, 3], [0, 1, 1, 1]]
    assert places.next_B.tolist() == [5, 4]


def test_an_image_and_a_video_before_it_have_their_own_features() -> None:
    """Features of images come first in a batch, whatever the order in the prompt."""
    kinds = [VIDEO] * 2 + [TEXT] + [IMAGE] * 2
    assert positions(kinds, runs((1, 1, 2, 1.0), (2, 1, 1, 3.0)))[0] == [
        [0, 3, 4, 5, 5],
        [0, 0, 4, 5, 5],
        [0, 0, 4, 5, 6],
    ]


# ---- families: where their runs begin and end ------------------------------------------------------------------------


def visual_positions(name: str, inputs: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    """Positions of each place of the first row, and the kinds of the places."""
    backbone = backbone_of(model_of(name))
    kinds = backbone.kinds(inputs["input_ids"])
    places = backbone.places(inputs["attention_mask"].bool(), kinds, backbone.vision(inputs))
    return places.position_PBS[:, 0].T, kinds[0]


def as_batch(ids: list[int], inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long), **inputs}


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("qwen2_vl", [0, 1, 2]),  # one number a frame
        ("qwen2_5_vl", [0, 3, 6]),  # 1.5 seconds a frame, 2 numbers a second
    ],
)
def test_a_video_is_one_run(name: str, steps: list[int]) -> None:
    position, kinds = visual_positions(name, as_batch(*row_of(name, [], 0, [(3, 2, 4)])))
    (place,) = (kinds == VIDEO).nonzero()[:1, 0].tolist()
    start = int(position[place, 0])
    time = [start + step for step in steps for _ in range(8)]
    assert position[place : place + 24, 0].tolist() == time
    assert position[place : place + 8, 1:].tolist() == [[start + y, start + x] for y in range(2) for x in range(4)]
    assert position[place + 24].tolist() == [start + max(steps[-1] + 1, 4)] * 3


def test_each_frame_of_a_qwen3_video_is_a_run_of_its_own() -> None:
    position, kinds = visual_positions("qwen3_vl", as_batch(*row_of("qwen3_vl", [], 0, [(3, 2, 4)])))
    starts = [int(n) for n in (kinds == VIDEO).nonzero()[::8, 0]]
    assert len(starts) == 3
    for place in starts:
        start = int(position[place - 1, 0]) + 1  # the word before it
        expected = [[start, start + y, start + x] for y in range(2) for x in range(4)]
        assert position[place : place + 8].tolist() == expected
        assert position[place + 8].tolist() == [start + 4] * 3


@pytest.mark.parametrize("name", [name for name in FAMILIES if name.startswith("qwen")])
@pytest.mark.parametrize("side", ["left", "right"])
def test_images_have_the_positions_of_transformers_too(name: str, side: str) -> None:
    """transformers is right for images, so here it is a second opinion."""
    sizes = [*FAMILIES[name].sizes]
    model, inputs = model_of(name), batch_of(name, [sizes[:2], [], sizes[2:]], side)
    backbone = backbone_of(model)
    valid, kinds = inputs["attention_mask"].bool(), backbone.kinds(inputs["input_ids"])
    places = backbone.places(valid, kinds, backbone.vision(inputs))
    wanted, _ = model.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=kinds,
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )
    assert torch.equal(places.position_PBS[:, valid], wanted[:, valid])
