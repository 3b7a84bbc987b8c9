"""From "64 visual tokens per layer on average", or "11%" of the image's, to a method's own parameters."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from hidrop.geometry import Geometry
from hidrop.methods import check_published, checked_params, method_class, required_fields, with_published
from hidrop.reducer import BudgetError, Reducer

Reading = Literal["average", "kept"]
# A number of visual tokens, or a share of the image's visual tokens, such as "11%".
Budget = float | str

MOST_TOKENS = 2**31  # of any image
DECIMAL = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)%?")  # float() also reads 1e2, 1_0, +5, nan and other digits
LONGEST_TEXT = 24  # characters of a share, which becomes a part of a row's name


def parse_budget(value: object) -> Budget:
    """A budget as users write it: `64`, `64.0`, `"64"` or `"11%"`. A share keeps its text, which labels rows.

    Matrices, command lines, lmms-eval's model arguments and reports all read budgets here. Raises ValueError.
    """
    text = value.strip() if isinstance(value, str) else ""
    share = text.endswith("%")
    number = math.nan
    if DECIMAL.fullmatch(text):
        number = float(text.removesuffix("%"))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not 0 < number <= (100 if share else MOST_TOKENS) or len(text) > LONGEST_TEXT:
        raise ValueError(f'a budget is a number of visual tokens (64) or a share of them ("11%"), not {value!r}')
    return text if share else number


def budget_tokens(budget: Budget, visual_tokens: int) -> float:
    """A parsed budget as a number of visual tokens, for an image that has `visual_tokens` of them."""
    return float(budget[:-1]) / 100 * visual_tokens if isinstance(budget, str) else budget


def check_absolute(
    cls: type[Reducer], params: Mapping[str, Any], budget: Budget | None, geometry: Geometry
) -> Geometry:
    """`geometry` with its number of visual tokens as the reference, once no number of tokens needs another one.

    Raises ValueError for a number of tokens where each image has its own and nobody stated which image it is of, and
    for a published setting of other models.
    """
    check_published(cls, params, geometry)
    params = with_published(cls, params)
    absolute = [name for name in cls.counts if _states_numbers(params.get(name))]
    for label, part, fields in cls.nested(params):
        own = with_published(part, fields)
        absolute += [f"{label}: {name}" for name in part.counts if _states_numbers(own.get(name))]
    if geometry.fixed_counts and budget is not None and isinstance(parse_budget(budget), str):
        raise ValueError(
            f"{cls.name}: budget: {budget} is a share of each image, and counts: fixed keeps one number of tokens. "
            "Give a number, or leave counts out"
        )
    if geometry.referenced:
        return geometry
    if budget is not None and not isinstance(parse_budget(budget), str):
        absolute.append("budget")
    if absolute:
        raise ValueError(
            f"{cls.name}: {', '.join(absolute)}: a number of tokens has no meaning where each image has its own; give "
            'a share, such as budget: "22.2%", or state reference_tokens, the tokens of the image that it is of'
        )
    return geometry.counted(geometry.visual_tokens, "fixed" if geometry.fixed_counts else "scaled")


def _states_numbers(value: Any) -> bool:
    """Whether a field holds numbers of tokens, and not only what a budget decides (None)."""
    return any(part not in (None, 0) for part in (value if isinstance(value, (list, tuple)) else [value]))


def solve(
    name: str, params: dict[str, Any] | None, budget: Budget, geometry: Geometry, reading: Reading = "average"
) -> Reducer:
    """The method `name` with a budget of visual tokens (as near as it can get), other fields as in `params`.

    reading="average": entering a layer, averaged over all layers. "kept": left after the last cut, which other tables
    mean by the same number. Raises BudgetError, naming the budgets that are possible, and ValueError for something that
    is not a budget, an unknown or missing field, a field that contradicts the budget, or a schedule that does not fit
    the decoder.
    """
    if reading not in get_args(Reading):
        raise ValueError(f"reading: {reading!r} is not one of {', '.join(map(repr, get_args(Reading)))}")
    cls = method_class(name)
    given = checked_params(cls, params, open_counts=True)
    geometry = check_absolute(cls, given, budget, geometry)
    tokens = budget_tokens(parse_budget(budget), geometry.visual_tokens)

    def with_average(average: float) -> Reducer:
        try:
            reducer = cls.for_budget(average, geometry, **given)
        except TypeError as error:
            raise ValueError(f"{name}: {error}".replace(f"{cls.__name__}.__init__() ", "")) from error
        reducer.plan(geometry)
        return reducer

    try:
        found = with_average(tokens) if reading == "average" else _with_kept(with_average, tokens, geometry)
    except BudgetError as error:
        what = f"an average of {tokens:g} visual tokens" if reading == "average" else f"{tokens:g} kept visual tokens"
        reach = ""
        if isinstance(parse_budget(budget), str):  # the numbers are of an image that the user may not have named
            what = f"{budget} ({what} of {geometry.visual_tokens})"
            if error.possible and reading == "average":
                low, high = (100 * average / geometry.visual_tokens for average in error.possible)
                reach = f" ({low:.1f} % to {high:.1f} %)"
        raise BudgetError(f"{name}: {what} is out of reach: {error}{reach}", error.possible) from None
    if not cls.composed:
        check_given(cls, given, found)
    return found


def check_given(cls: type[Reducer], given: Mapping[str, Any], found: Reducer) -> None:
    """Raises ValueError for a field that is given and that a budget has made something else."""
    for key in required_fields(cls):
        value, solved = given.get(key), getattr(found, key)
        left_open = value is None or (isinstance(value, tuple) and None in value)
        if not left_open and value != solved:
            raise ValueError(f"{cls.name}: {key}: the budget makes it {solved}, not {value}; give one of the two")


def _with_kept(with_average: Callable[[float], Reducer], tokens: float, geometry: Geometry) -> Reducer:
    """Bisects the average: the more tokens a method may have, the more it has left after its last cut."""
    try:
        return with_average(-1.0)  # what no method can meet, and each answers with what it can
    except BudgetError as error:
        if error.possible is None:
            raise
        low, high = error.possible
    inside = 1e-6 * (high - low)
    low, high = low + inside, high - inside

    def kept(average: float) -> int:
        left = with_average(average).plan(geometry).kept
        assert left is not None
        return left

    if not kept(low) <= tokens <= kept(high):
        raise BudgetError(f"after its last cut it has {kept(low)}..{kept(high)}")
    average = root(kept, tokens, low, high)
    # Fields of a method are rounded, so that the very average may fall short by one: look a little above it too.
    tried = [min(high, average + i * 200 * inside) for i in range(3)]
    if min(abs(kept(a) - tokens) for a in tried) > 1:  # a method may change its shape on the way, as SparseVLM does
        tried = [low + i * (high - low) / 400 for i in range(401)]
    nearest = min(tried, key=lambda a: abs(kept(a) - tokens))
    if abs(kept(nearest) - tokens) > 1:
        raise BudgetError(f"the nearest it comes to is {kept(nearest)}; try it with more of its fields given")
    return with_average(nearest)


def nearest_count(average: float, geometry: Geometry, fixed: float, layers: int, lowest: int, highest: int) -> int:
    """The count k, held by `layers` layers, that brings the average nearest to `average`.

    `fixed` tokens (summed over layers) are there anyway. Raises BudgetError when k is outside lowest..highest.
    """
    count = round((average * geometry.layers - fixed) / layers)
    if not lowest <= count <= highest:
        low, high = ((fixed + layers * k) / geometry.layers for k in (lowest, highest))
        raise BudgetError(f"with these layers it reaches {low:.2f}..{high:.2f}", (low, high))
    return count


def single_cut(average: float, geometry: Geometry, layer: int) -> int:
    """Tokens to keep after `layer` for a method with one cut. Raises BudgetError."""
    whole = geometry.visual_tokens
    if not 0 <= layer < geometry.layers:
        raise ValueError(
            f"layer: {layer} must be in 0..{geometry.layers - 1}, so that a layer with fewer tokens is left"
        )
    return nearest_count(average, geometry, layer * whole, geometry.layers - layer, 1, whole)


def root(function: Callable[[float], float], value: float, low: float, high: float) -> float:
    """Where a rising function takes `value`, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < value else (low, middle)
    return (low + high) / 2


def whole_layers(average: float, geometry: Geometry) -> float:
    """How many layers could see all of an image within `average`, if the others saw nothing."""
    return average * geometry.layers / geometry.visual_tokens


def early_layer(average: float, geometry: Geometry) -> int:
    """A layer for a first cut that leaves room in the budget for what comes after it."""
    return max(1, int(0.6 * whole_layers(average, geometry)))


def earlier_layers(average: float, geometry: Geometry, layers: tuple[int, ...]) -> str:
    """Advice for a budget below what cuts after `layers` can reach: a first cut that leaves room, if there is one.

    The image is whole up to the first cut, so that alone costs first * visual_tokens / layers on average.
    """
    first = early_layer(average, geometry)
    if first >= layers[0] or first >= whole_layers(average, geometry):
        return ""
    return f"; move the cuts earlier, e.g. layers: {[first, *layers[1:]]}"
