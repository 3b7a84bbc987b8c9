from __future__ import annotations

import pytest

from evals.report.figure_scale import (
    MARK,
    Scale,
    lines_needed,
    lines_of,
    scale_of,
    side_by_side,
    spot,
    whole_scale,
    with_lines,
)


def test_an_end_is_cut_off_if_that_doubles_the_scale() -> None:
    scale = scale_of([17.0, 85.0, 90.0, 92.0, 97.0, 100.0])
    assert scale.outside(17.0) and not scale.outside(85.0) and not scale.outside(100.0)
    assert scale.before > 0 and scale.after == 0
    assert scale_of([71.0, 85.0, 90.0, 92.0, 97.0, 100.0]) == whole_scale([71.0, 100.0]), "15 of 29: not half"
    both = scale_of([576.0, 64.0, 65.0, 66.0, 67.0, 1.0])
    assert both.outside(576.0) and both.outside(1.0) and both.before and both.after


@pytest.mark.parametrize(
    "values", [[5.0], [5.0, 5.0], [0.0], [1.0, 1.0, 1.0, 9.0], [1.0, 9.0], [1.0, 2.0, 90.0], [3.0, *[360.3, 360.4] * 5]]
)
def test_a_few_or_equal_values_are_all_shown(values: list[float]) -> None:
    scale = scale_of(values)
    assert not any(map(scale.outside, values)) and scale.low < scale.high
    assert scale.limits == (scale.low, scale.high)


def test_at_most_a_fifth_of_the_points_is_outside_at_each_end() -> None:
    assert not scale_of([1.0] * 3 + [90.0, 91.0, 92.0, 93.0]).outside(1.0)
    assert scale_of([1.0, *(90.0 + n for n in range(4))]).outside(1.0)


def test_points_below_the_scale_are_drawn_in_lines_without_hiding_each_other() -> None:
    x, y = Scale(0.0, 100.0), Scale(80.0, 100.0)
    points = [(10.0, 17.0), (12.0, 26.0), (60.0, 35.0), (90.0, 95.0)]
    lines = lines_of(points, x, y)
    assert lines == {(12.0, 26.0): 0, (10.0, 17.0): 1, (60.0, 35.0): 0}, "the nearest value is next to the axis"
    assert lines_needed(lines, y) == (2, 0)
    y = with_lines(y, 2, 0)
    assert y.limits[1] == 100.0
    assert y.limits[0] < spot((10.0, 17.0), x, y, 1)[1] < spot((12.0, 26.0), x, y, 0)[1] < 80.0
    assert spot((90.0, 95.0), x, y) == (90.0, 95.0)


def test_a_point_far_to_the_right_is_drawn_in_the_strip_at_its_own_height() -> None:
    x = scale_of([576.0, 64.0, 65.0, 66.0, 70.0])
    place = spot((576.0, 95.0), x, Scale(80.0, 100.0))
    assert x.high < place[0] < x.limits[1] and place[1] == 95.0


def test_marks_that_would_hide_each_other_stand_side_by_side() -> None:
    x, y = Scale(0.0, 100.0), Scale(0.0, 100.0)
    width, height = 100 * MARK[0], 100 * MARK[1]
    places = [(11.0, 80.0), (11.0, 80.0 - height / 2), (11.0, 80.0), (11.0, 60.0), (30.0, 80.0)]
    left = 11.0 - width
    assert side_by_side(places, x, y) == [(11.0, 80.0), (left, places[1][1]), (11.0 + width, 80.0), *places[3:]]
