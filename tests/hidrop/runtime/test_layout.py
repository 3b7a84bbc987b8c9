from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hidrop.backbones.model_inputs import counted_places
from hidrop.geometry import Geometry
from hidrop.methods import build
from hidrop.runtime.layout import (
    ROOM,
    Layout,
    answer_starts,
    media_by_row,
    plan_batch,
    read,
    segments,
    valid_places,
)

V = 99
IDS = torch.tensor([[0, 1, 5, V, V, 6], [1, V, V, V, 7, 8], [0, 0, 0, 1, 2, 3]])
MASK = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])


def laid(ids: torch.Tensor, mask: torch.Tensor | None, visual: torch.Tensor, **more: Any) -> Layout:
    """A layout with the positions of a family that counts its tokens."""
    valid = valid_places(ids, mask)
    return read(valid, visual, counted_places(valid), **more)


def positions(layout: Layout, order_BN: torch.Tensor) -> torch.Tensor:
    """The RoPE position of each slot."""
    return layout.position_PBS[0].gather(1, layout.places(order_BN))


def test_places_of_text_and_image_with_fillers_at_the_left():
    layout = laid(IDS, MASK, IDS == V)
    assert layout.text_BT.tolist() == [[1, 2, 5], [0, 4, 5], [3, 4, 5]]
    assert layout.visual_BV.tolist() == [[-1, 3, 4], [1, 2, 3], [-1, -1, -1]]
    assert layout.feature_BV.tolist() == [[-1, 0, 1], [2, 3, 4], [-1, -1, -1]]
    assert (layout.text_counts, layout.visual_counts) == ((3, 3, 3), (2, 3, 0))
    assert layout.next_B.tolist() == [5, 6, 3]
    assert not layout.text_padded


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_count_tokens_not_padding(side):
    ids, mask = (IDS, MASK) if side == "left" else (IDS.roll(-3, 1), MASK.roll(-3, 1))
    layout = laid(ids[2:], mask[2:], ids[2:] == V)
    assert positions(layout, layout.text_BT * ROOM).tolist() == [[0, 1, 2]]


def test_padding_that_looks_like_an_image_token_is_padding():
    layout = laid(
        torch.tensor([[V, 1, V, 3]]), torch.tensor([[0, 1, 1, 1]]), torch.tensor([[True, False, True, False]])
    )
    assert layout.visual_BV.tolist() == [[2]]


def test_labels_of_padding_and_image_do_not_count():
    layout = laid(IDS, MASK, IDS == V, labels=torch.full_like(IDS, 4))
    assert layout.label_BS.tolist()[0] == [-100, 4, 4, -100, -100, 4]
    order = torch.tensor([[-1, 1, 2, 3]] * 3) * ROOM
    order[order < 0] = -1
    assert layout.labels(order)[0].tolist() == [-100, 4, 4, -100]


def test_merged_tokens_have_an_order_but_no_source():
    layout = laid(IDS, MASK, IDS == V)
    order = torch.tensor([[3 * ROOM, 4 * ROOM, 4 * ROOM + 1, 5 * ROOM]] * 3)
    assert layout.sources(order)[0].tolist() == [3, 4, -1, 5]
    assert positions(layout, order)[0].tolist() == [2, 3, 3, 4]


def test_queries_stand_before_answers_and_weigh_the_same():
    label = torch.tensor([[-100, -100, 5, 5, -100, 6, -100], [-100] * 7, [-100, 3, 3, 3, 3, 3, 3]])
    order = torch.arange(7).expand(3, 7) * ROOM
    slot, weight = answer_starts(label, order, 2)
    assert slot.tolist() == [[1, 4], [6, 6], [6, 0]]
    assert weight.tolist() == [[0.5, 0.5], [0, 1], [0, 1]]


def test_an_answer_right_at_the_start_has_no_query_in_padding():
    label = torch.tensor([[-100, -100, 5, 5, -100, 6]])
    order = torch.tensor([[-1, -1, 0, 1, 2, 3]]) * ROOM
    order[order < 0] = -1
    slot, weight = answer_starts(label, order, 2)
    assert weight.tolist() == [[0, 1]]
    assert slot[0, 1] == 4


def test_rows_get_the_schedule_of_their_own_image():
    geometry = Geometry(6, 32, 64, 4, 4, 8, 100, visual_tokens=4)
    method = build("hidrop", dict(inject=2, filters=[3, 4], keep=[2, 1], exit=6))
    ids = torch.tensor([[1] + [V] * 8 + [2], [0] * 4 + [1] + [V] * 4 + [2], [0] * 8 + [1, 2]])
    plan = plan_batch(method.schedule(geometry), geometry, laid(ids, (ids > 0).long(), ids == V))
    assert [p.entering for p in plan.plans] == [(0, 8, 8, 4, 2, 0), (0, 4, 4, 2, 1, 0), (0,) * 6]
    assert plan.entering == (0, 8, 8, 4, 2, 0)
    assert plan.cuts[0].keep_B.tolist() == [4, 2, 0]
    assert plan.cuts[1].there == (4, 2, 0)
    assert [cut.after for cut in plan.cuts] == [3, 4] and plan.after(4) == [1] and plan.after(5) == []
    assert segments(plan, 6) == [(1, 1), (2, 3), (4, 4), (5, 5), (6, 6)]


def test_media_of_a_batch_are_those_of_its_rows():
    """Images of the whole batch come first, then its videos; a row may have both, or none."""
    layout = laid(IDS, MASK, IDS == V)
    layout = replace(layout, visual_counts=(9, 0, 6, 4), video_counts=(4, 0, 6, 0))
    rows = ((2, 3, 4), (), (6,), (4,))
    assert media_by_row(layout, images=(2, 3, 4), videos=(4, 6)) == rows
    with pytest.raises(ValueError, match="holds 5 image or video tokens, but its media have 6: give each prompt"):
        media_by_row(layout, images=(2, 4, 3), videos=(4, 6))
    with pytest.raises(ValueError, match="holds 4 image or video tokens, but its media have 0"):
        media_by_row(layout, images=(2, 3), videos=(4, 6))


def test_a_batch_of_text_is_one_segment():
    geometry = Geometry(6, 32, 64, 4, 4, 8, 100, visual_tokens=4)
    method = build("hidrop", dict(inject=2, filters=[3, 4], keep=[2, 1], exit=6))
    plan = plan_batch(
        method.schedule(geometry), geometry, laid(torch.tensor([[1, 2]]), None, torch.zeros(1, 2, dtype=torch.bool))
    )
    assert segments(plan, 6) == [(1, 6)]
    assert plan.entering == (0,) * 6


def test_a_prompt_needs_text():
    with pytest.raises(ValueError, match="at least one token of text"):
        laid(torch.tensor([[V, V]]), None, torch.ones(1, 2, dtype=torch.bool))
