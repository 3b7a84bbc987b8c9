"""for_budget: the average that it reaches is the nearest one possible, or it says what is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, fields
from typing import Any

from hidrop.budget import Budget, budget_tokens, parse_budget
from hidrop.errors import reason
from hidrop.geometry import Geometry
from hidrop.methods import checked_params
from hidrop.reducer import BudgetError, Reducer
from hidrop.testing.definition import Definition
from hidrop.testing.properties import Property
from hidrop.testing.report import Fault, Skip

IMAGE = 576  # visual tokens: rounding to whole tokens is then a small part of an average
SLACK = 1.0  # tokens on average that rounding of counts and shares may cost
DEFAULT: tuple[Budget, ...] = ("75%", "50%", "33.3%", "22.2%", "11.1%", "3%")


def property_of(budgets: Sequence[Budget] | None) -> Property[Definition]:
    """The property for these budgets, numbers or shares of an image of 576 tokens."""
    wanted = [budget_tokens(parse_budget(one), IMAGE) for one in (budgets or DEFAULT)]
    return Property(
        "budget",
        "for_budget keeps the fields that are given, and gives the setting whose average of visual tokens a layer is "
        "nearest to the one asked for, or raises BudgetError with the range that is possible",
        "solve the plan for the free field: all layers count, also those before the cut (hidrop.budget.single_cut does "
        "it for one cut). Pass on the fields that are given: cls(**{**params, ...}). Outside of what is possible, "
        "raise BudgetError(message, (lowest, highest))",
        lambda it: check_budgets(it, wanted),
    )


def check_budgets(it: Definition, wanted: Sequence[float]) -> None:
    cls, geometry = type(it.method), it.geometry.with_visual_tokens(IMAGE)
    if getattr(cls.for_budget, "__func__", None) is Reducer.for_budget.__func__:  # type: ignore[attr-defined]
        raise Skip("it has no for_budget: matrices give its fields in place of a budget")
    given = given_fields(it.method, geometry)
    near = (average + step / 4 for average in wanted for step in range(-8, 9))
    evenly = (IMAGE * step / 96 for step in range(1, 97))
    reached = sorted(
        {got for average in (*evenly, *near) if (got := average_of(cls, average, geometry, given)) is not None}
    )
    check_given(cls, solved_for(cls, wanted, geometry, given), given, geometry)
    for average in wanted:
        got = average_of(cls, average, geometry, given)
        nearest = min(reached, key=lambda one: abs(one - average), default=None)
        if got is None:
            if nearest is not None and abs(nearest - average) < SLACK / 4:
                raise Fault(
                    f"{average:.2f} of {IMAGE} tokens: BudgetError, but an average of {nearest:.2f} is possible"
                )
            continue
        if nearest is not None and abs(got - average) > abs(nearest - average) + SLACK:
            raise Fault(f"{average:.2f} of {IMAGE} tokens became {got:.2f}, and {nearest:.2f} is possible")
        low, high = edges(reached)
        if not low <= average <= high:
            raise Fault(
                f"{average:.2f} of {IMAGE} tokens became {got:.2f}, the nearest that it gives, without a BudgetError"
            )
        check_written(cls, cls.for_budget(average, geometry, **given), geometry)
    if average_of(cls, -1.0, geometry, given) is not None:
        raise Fault("a budget of -1 tokens is not refused with a BudgetError")
    if not reached:
        raise Skip(
            f"for_budget refuses every budget: check that this is meant. It says: {refusal(cls, geometry, given)}"
        )


def edges(reached: Sequence[float]) -> tuple[float, float]:
    """The averages whose nearest possible one is not far away: half a step below and above what is reached."""
    if len(reached) == 1:
        return reached[0] - SLACK, reached[0] + SLACK
    first, last = ((b - a) / 2 for a, b in (reached[:2], reached[-2:]))
    return reached[0] - max(first, SLACK), reached[-1] + max(last, SLACK)


def average_of(cls: type[Reducer], average: float, geometry: Geometry, given: dict[str, Any]) -> float | None:
    """The average that the solved method has; None for a BudgetError."""
    try:
        return cls.for_budget(average, geometry, **given).plan(geometry).average_tokens
    except BudgetError:
        return None


def solved_for(cls: type[Reducer], wanted: Sequence[float], geometry: Geometry, given: dict[str, Any]) -> list[Reducer]:
    """The methods for those of these averages that are not refused."""
    found = []
    for average in wanted:
        with suppress(BudgetError):
            found.append(cls.for_budget(average, geometry, **given))
    return found


def given_fields(method: Reducer, geometry: Geometry) -> dict[str, Any]:
    """The fields that go with a budget: those with another value than their default, without the ones it decides.

    Which ones it decides is not written anywhere: by convention the counts, or all that have no default.
    """
    set_ = {field.name: getattr(method, field.name) for field in fields(method)}
    changed = {f.name: set_[f.name] for f in fields(method) if f.default is MISSING or set_[f.name] != f.default}
    required = [f.name for f in fields(method) if f.default is MISSING and f.default_factory is MISSING]
    problem: Exception | None = None
    refused: dict[str, Any] | None = None
    for left_out in (type(method).counts, required, tuple(changed)):
        given = {name: value for name, value in changed.items() if name not in left_out}
        try:
            got = [average_of(type(method), average, geometry, given) for average in probes(geometry)]
        except (ValueError, TypeError) as error:
            problem = problem or error
            continue
        if any(average is not None for average in got):
            return given
        refused = given if refused is None else refused
    if refused is not None:
        return refused
    assert problem is not None
    raise problem


def probes(geometry: Geometry) -> Iterable[float]:
    return (geometry.visual_tokens * share for share in (0.1, 0.4, 0.8))


def refusal(cls: type[Reducer], geometry: Geometry, given: dict[str, Any]) -> str:
    """What a method says that refuses a budget of half of the tokens."""
    try:
        cls.for_budget(geometry.visual_tokens / 2, geometry, **given)
    except BudgetError as error:
        return reason(error)
    return "nothing"


def check_given(cls: type[Reducer], solved: Sequence[Reducer], given: dict[str, Any], geometry: Geometry) -> None:
    """Solved methods have the fields that they were given, but for those that the budget decides.

    Such a field has another value for another budget; one that is ignored has the same value for all. A field may
    become None that only says where to begin (`label` of SparseVLM): without it, other methods are found.
    """
    for name, value in given.items():
        got = {getattr(one, name) for one in solved}
        if len(got) != 1 or got == {value}:
            continue
        if got == {None}:
            others = {key: own for key, own in given.items() if key != name}
            averages = [one.plan(geometry).average_tokens for one in solved]
            if [cls.for_budget(average, geometry, **others) for average in averages] != list(solved):
                continue
        raise Fault(f"for_budget was given {name}={value!r}, and every method that it gives has {name}={got.pop()!r}")


def check_written(cls: type[Reducer], found: Reducer, geometry: Geometry) -> None:
    """A solved method that is written to a file and read again is the same."""
    written = json.loads(json.dumps(asdict(found)))
    again = cls(**checked_params(cls, written))
    if again != found or again.plan(geometry) != found.plan(geometry):
        raise Fault(f"{found} is written as {written}, which reads as {again}")
