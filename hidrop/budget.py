"""From "64 visual tokens a layer on average" to a method's own parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hidrop.geometry import Geometry
from hidrop.reducer import BudgetError, Reducer, check_params, method_class


def solve(name: str, params: dict[str, Any] | None, average: float, geometry: Geometry) -> Reducer:
    """The method `name` with `average` visual tokens entering a layer on average (as near as it can get).

    `params` are its other fields. Raises BudgetError, naming the averages that are possible, and ValueError for an
    unknown or missing field or a schedule that does not fit the decoder.
    """
    cls = method_class(name)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in (params or {}).items()}
    check_params(cls, given)
    try:
        reducer = cls.for_budget(average, geometry, **given)
    except BudgetError as error:
        raise BudgetError(f"{name}: an average of {average:g} visual tokens is out of reach: {error}") from None
    except TypeError as error:
        raise ValueError(f"{name}: {error}".replace("__init__() ", "")) from error
    reducer.plan(geometry)
    return reducer


def nearest_count(average: float, geometry: Geometry, fixed: float, layers: int, lowest: int, highest: int) -> int:
    """The count k, held by `layers` layers, that brings the average nearest to `average`.

    `fixed` tokens (summed over layers) are there anyway. Raises BudgetError when k is outside lowest..highest.
    """
    count = round((average * geometry.layers - fixed) / layers)
    if not lowest <= count <= highest:
        low, high = ((fixed + layers * k) / geometry.layers for k in (lowest, highest))
        raise BudgetError(f"with these layers it reaches {low:.2f}..{high:.2f}")
    return count


def single_cut(average: float, geometry: Geometry, layer: int) -> int:
    """Tokens to keep after `layer` for a method with one cut. Raises BudgetError."""
    whole = geometry.visual_tokens
    if not 0 <= layer < geometry.layers:
        raise ValueError(f"layer: {layer} must lie in 0..{geometry.layers - 1}, so that a layer is left to profit")
    return nearest_count(average, geometry, layer * whole, geometry.layers - layer, 1, whole)


def root(function: Callable[[float], float], value: float, low: float, high: float) -> float:
    """Where a rising function takes `value`, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < value else (low, middle)
    return (low + high) / 2


def earlier_layers(average: float, geometry: Geometry, layers: tuple[int, ...]) -> str:
    """Advice for a budget below what cuts after `layers` can reach: a first cut that leaves room, if there is one.

    The image is whole up to the first cut, so that alone costs first * visual_tokens / layers on average.
    """
    whole_layers = average * geometry.layers / geometry.visual_tokens
    first = max(1, int(0.6 * whole_layers))
    if first >= layers[0] or first >= whole_layers:
        return ""
    return f"; move the cuts earlier, e.g. layers: {[first, *layers[1:]]}"
