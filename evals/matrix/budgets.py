"""Budgets as a matrix writes them: an average number of visual tokens (64) or a share of the image's ("11%")."""

from __future__ import annotations

import math
from typing import Any

from hidrop.geometry import Geometry


def budgets(value: Any) -> tuple[float | str, ...]:
    """One budget or a list of them, each a number above 0 or a percentage such as "11%"."""
    many = value if isinstance(value, (list, tuple)) else [value]
    for one in many:
        text = one[:-1] if isinstance(one, str) and one.endswith("%") else one
        try:
            number = math.nan if isinstance(one, bool) or (isinstance(one, str) and text is one) else float(text)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (math.isfinite(number) and number > 0) or (isinstance(one, str) and number > 100):
            raise ValueError(f'a budget is an average number of visual tokens (64) or a share ("11%"), not {one!r}')
    if not many or len(set(many)) < len(many):
        raise ValueError("a list of budgets needs at least one, and none twice")
    return tuple(many)


def optional_budgets(value: Any) -> tuple[float | str, ...] | None:
    return None if value is None else budgets(value)


def budget_tokens(budget: float | str, geometry: Geometry) -> float:
    """A budget as an average number of visual tokens."""
    if isinstance(budget, str):
        return float(budget[:-1]) / 100 * geometry.visual_tokens
    return float(budget)
