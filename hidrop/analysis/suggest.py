"""A schedule for a model: injection, exit and filters from its curves, counts from a budget."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from hidrop.analysis import rules
from hidrop.analysis.curves import Curves
from hidrop.analysis.rules import Reading
from hidrop.geometry import Geometry
from hidrop.hidrop import HiDrop
from hidrop.reducer import BudgetError

FILTERS, TOLERANCE = 4, 0.01


@dataclass(frozen=True)
class DecidedLayers:
    """Layers that the user has decided. The rules do not look for them."""

    inject: int | None = None
    exit: int | None = None
    filters: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Suggestion:
    """The readings, and the schedule if all of them found something and the budget can be met.

    Otherwise `problem` says what is missing, and `way` what would decide it (see `Reading`). `share`: the budget as a
    share, where each image has its own number of tokens; the schedule's counts are then those of a nominal image.
    """

    inject: Reading
    exit: Reading
    filters: Reading
    keep: str
    schedule: HiDrop | None
    problem: str | None
    budget: float
    way: tuple[tuple[str, str], ...] = ()
    share: str | None = None

    @property
    def advice(self) -> str:
        """What would decide it, as options of `analyze`. "" if there is a schedule."""
        if not self.way:
            return ""
        *others, last = [f"--{name} {value}" for name, value in self.way]
        return f"What would decide it: {', '.join(others)}{' or ' if others else ''}{last}"

    def yaml(self) -> str:
        """The method as an entry of a matrix. Raises ValueError if there is no schedule."""
        if (found := self.schedule) is None:
            raise ValueError(self.problem)
        counts = f"keep: {list(found.keep)}" if self.share is None else f'budget: "{self.share}"'
        return (
            f"  hidrop-suggested: {{name: hidrop, inject: {found.inject}, filters: {list(found.filters)}, "
            f"{counts}, exit: {found.exit}}}"
        )


def suggest(
    curves: Curves,
    geometry: Geometry,
    budget: float,
    *,
    tolerance: float = TOLERANCE,
    most: int = FILTERS,
    fixed: DecidedLayers = DecidedLayers(),  # frozen
    share: str | None = None,
) -> Suggestion:
    """Read a schedule off the curves.

    budget: visual tokens entering a layer, on average. tolerance: the loss of score that an exit may cost, as a share.
    most: the largest number of filters. fixed: layers that the user has decided. share: the budget as a share, if
    `geometry` is of a nominal image and numbers of tokens have no meaning for the model.
    """
    exit = _given(fixed.exit) or rules.with_uncertainty(curves, partial(rules.leaving, tolerance=tolerance))
    inject = _given(fixed.inject) or rules.with_uncertainty(curves, partial(rules.injection, exit=exit.layer))
    filters = Reading((), "local maxima of ILVAS", "not looked for: the window between injection and exit is not known")
    if fixed.filters is not None:
        filters = Reading(fixed.filters, "given", "")
    elif inject.layer is not None and exit.layer is not None:
        read = partial(rules.filtering, inject=inject.layer, exit=exit.layer, most=most)
        filters = rules.with_uncertainty(curves, read)
    rule = "falling by one factor from filter to filter, so that the cuts get smaller; the first one meets the budget"
    if share is not None:
        rule = "those of the paper after the later filters, as shares of the image; the first one meets the budget"
    for name, reading in (("injection", inject), ("exit", exit), ("filters", filters)):
        if not reading.layers:
            return Suggestion(
                inject, exit, filters, rule, None, f"no {name}: {reading.evidence}", budget, reading.way, share
            )
    assert inject.layer is not None and exit.layer is not None
    try:
        schedule = counted(inject.layer, filters.layers, exit.layer, geometry, budget, published=share is not None)
    except (BudgetError, ValueError) as error:
        way = (("budget", "TOKENS"), ("filters", "LAYERS"))
        return Suggestion(inject, exit, filters, rule, None, str(error), budget, way, share)
    return Suggestion(inject, exit, filters, rule, schedule, None, budget, share=share)


def counted(
    inject: int,
    filters: tuple[int, ...],
    exit: int,
    geometry: Geometry,
    budget: float,
    *,
    published: bool = False,
) -> HiDrop:
    """HiDrop with these layers and concave counts: a geometric series whose first count is solved for the budget.

    `published`: the paper's counts after the later filters instead, which a matrix takes where it states a budget and
    no counts. Raises BudgetError for a budget that these layers cannot meet, ValueError for layers that do not fit.
    """
    if published:
        return HiDrop.for_budget(budget, geometry, inject=inject, filters=filters, exit=exit)
    whole = geometry.visual_tokens

    def tail(factor: float) -> list[int]:
        return [max(1, round(whole * factor**place)) for place in range(1, len(filters) + 1)]

    low, high = 0.0, 1.0
    for _ in range(60):
        factor = (low + high) / 2
        shape = HiDrop(inject, filters, tuple(tail(factor)), exit)
        low, high = (factor, high) if shape.plan(geometry).average_tokens <= budget else (low, factor)
    later = tail(low)[1:]
    return HiDrop.for_budget(budget, geometry, inject=inject, filters=filters, exit=exit, keep=(None, *later))


def _given(layer: int | None) -> Reading | None:
    return None if layer is None else Reading((layer,), "given", "")
