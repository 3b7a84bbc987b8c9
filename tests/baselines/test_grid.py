"""The cells of `uniform` and `pool` for grids of any shape, by hand and for random shapes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.grid import cells
from hidrop.backbones.model_inputs import Grid, size_of
from hidrop.runtime.media_table import media_table


def prompt_of(rows: list[list[tuple[Grid, ...]]]) -> Any:
    """What `cells` reads of a prompt whose rows have media with these grids; fillers are at the left."""
    counts = [sum(map(size_of, media)) for media in rows]
    slots, start, feature = max(counts), 0, []
    for count in counts:
        feature.append([-1] * (slots - count) + list(range(start, start + count)))
        start += count
    grids = tuple(grid for media in rows for grid in media)
    vision: Any = SimpleNamespace(grids=grids, fingerprints=lambda: torch.zeros(len(grids), dtype=torch.long))
    feature_BV = torch.tensor(feature)
    return SimpleNamespace(visual_valid_BV=feature_BV >= 0, media=media_table(feature_BV, vision))


def cells_of(grids: tuple[Grid, ...], total: int) -> tuple[list[int], list[int]]:
    """The cell of each token of one medium, and the numbers of the tokens at the centres."""
    cell, centre = cells(prompt_of([[grids]]), torch.tensor([total]))
    return cell[0].tolist(), centre[0].nonzero()[:, 0].tolist()


def test_a_grid_of_3_x_4_has_cells_in_bands_and_centres_in_their_middle():
    cell, centre = cells_of(((1, 3, 4),), 4)
    assert cell == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3]  # two bands of two and of one row
    assert centre == [0, 2, 8, 10]
    cell, centre = cells_of(((1, 4, 3),), 3)
    assert cell == [0, 0, 0, 0, 0, 0, 1, 1, 2, 1, 1, 2]
    assert centre == [1, 6, 8]


def test_frames_share_the_cells_equally_and_their_cells_are_numbered_on():
    cell, centre = cells_of(((2, 3, 4),), 4)
    one = [0, 0, 1, 1] * 3  # wider than high: one band of two cells
    assert cell == [*one, *(n + 2 for n in one)]
    assert centre == [4, 6, 16, 18]
    assert [token // 12 for token in cells_of(((4, 3, 4),), 6)[1]] == [0, 0, 1, 2, 2, 3]


def test_tiles_with_a_column_of_line_ends_are_a_grid_with_one_more_column():
    """LLaVA-NeXT: the whole image of 4 x 4, then 4 x 8 patches and a line end each."""
    grids: tuple[Grid, ...] = ((1, 4, 4), (1, 4, 9))
    cell, centre = cells_of(grids, 13)
    assert cell[:16] == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2  # 4 of 13 for 16 of 52 tokens
    assert cell[16:25] == [4, 4, 4, 5, 5, 6, 6, 7, 7]
    assert centre == [0, 2, 8, 10, 17, 19, 21, 23, 34, 36, 38, 40, 42]


def test_a_line_end_alone_gets_a_cell_only_if_almost_all_tokens_do():
    """LLaVA-OneVision: one token behind 3 x 3."""
    grids: tuple[Grid, ...] = ((1, 3, 3), (1, 1, 1))
    cell, centre = cells_of(grids, 4)
    assert cell == [0, 0, 1, 0, 0, 1, 2, 2, 3, 3]
    assert len(centre) == 4 and 9 not in centre
    assert cells_of(grids, 10) == (list(range(10)), list(range(10)))


def test_fewer_cells_than_grids_leave_no_token_without_a_cell():
    cell, centre = cells_of(((5, 2, 2),), 2)
    assert cell == [0] * 8 + [1] * 12
    assert [token // 4 for token in centre] == [1, 3]


def test_a_column_of_patches_has_no_more_bands_than_cells():
    assert cells_of(((1, 9, 1),), 1) == ([0] * 9, [4])
    assert cells_of(((1, 9, 1),), 3) == ([0, 0, 0, 1, 1, 1, 2, 2, 2], [1, 4, 7])


grid = st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7))
media = st.lists(st.lists(grid, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(media, min_size=1, max_size=3), st.data())
def test_every_cell_has_tokens_every_token_a_cell_and_there_are_as_many_centres_as_cells(rows, data):
    counts = [sum(map(size_of, media)) for media in rows]
    totals = [data.draw(st.integers(1, count)) for count in counts]
    cell, centre = cells(prompt_of(rows), torch.tensor(totals))
    for row, (count, total) in enumerate(zip(counts, totals, strict=True)):
        assert set(cell[row, -count:].tolist()) == set(range(total))
        assert centre[row].sum() == centre[row, -count:].sum() == total
        assert len(set(cell[row][centre[row]].tolist())) == total
        alone = cells(prompt_of([rows[row]]), torch.tensor([total]))
        assert torch.equal(cell[row, -count:], alone[0][0])
        assert torch.equal(centre[row, -count:], alone[1][0])


@pytest.mark.parametrize(("side", "keep"), [(24, 64), (24, 192), (24, 128), (24, 5), (4, 5), (4, 16)])
def test_squares_have_as_many_bands_as_the_root_of_their_cells(side, keep):
    """The rule for LLaVA's square images, for one image and for two of them in a row."""
    cell, _ = cells_of(((1, side, side),), keep)
    bands = min(side, max(round(keep**0.5), -(-keep // side)))
    assert cell[::side] == [(y * bands // side) * keep // bands for y in range(side)]
    both, _ = cells(prompt_of([[((1, side, side),)] * 2]), torch.tensor([2 * keep]))
    assert both[0].tolist() == [*cell, *(n + keep for n in cell)]
