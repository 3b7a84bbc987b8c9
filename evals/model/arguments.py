"""Reads lmms-eval's `--model_args`: every mistake is found before a weight is read, and named with its argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hidrop import strict_yaml
from hidrop.errors import UserError, did_you_mean, shown

if TYPE_CHECKING:
    from hidrop.budget import Budget
    from hidrop.models import Loaded
    from hidrop.reducer import Reducer

# The arguments that are not fields of a method.
OWN = ("pretrained", "method", "protocol", "dtype", "attention", "quantization", "device", "batch_size", "budget",
       "graphs", "compile", "max_new_tokens", "min_pixels", "max_pixels", "resolution", "reference_tokens")  # fmt: skip
OPENING, CLOSING, QUOTES = "[{(", "]})", "\"'"


def split(text: str) -> dict[str, str]:
    """`a=1,b=[2,3]` as names and values. Raises UserError for an argument without a value and for one given twice."""
    found: dict[str, str] = {}
    for part in _parts(text):
        name, given, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if not given or not name:
            raise UserError(f"model_args: '{part.strip()}' is not an argument. Write NAME=VALUE, separated by commas")
        if not value:
            raise UserError(f"model_args: {name} has no value. Write {name}=VALUE, or leave it out")
        if name in found:
            raise UserError(f"model_args: {name} is given twice ({found[name]} and {value}). Give it once")
        found[name] = value
    return found


def _parts(text: str) -> Iterable[str]:
    """The text between commas that are outside of brackets and quotes."""
    depth, quote, start = 0, "", 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in QUOTES:
            quote = character
        elif character in OPENING:
            depth += 1
        elif character in CLOSING:
            depth -= 1
        elif character == "," and depth <= 0:
            yield text[start:place]
            start = place + 1
    if text.strip():
        yield text[start:]


def whole(name: str, value: Any) -> int:
    """A count that is at least 1. Raises UserError."""
    text = str(value).strip()
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise UserError(f"model_args: {name} is a whole number of at least 1, such as {name}=8, not '{value}'")
    return int(text)


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """One of the known words, a flag of Python's among them as `true` and `false`. Raises UserError."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if text not in known:
        raise UserError(f"model_args: {name} is one of {', '.join(known)}, not '{value}'")
    return text


def values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a method, with texts read as in a matrix. Raises UserError."""
    return {
        name: strict_yaml.value(value, f"model_args: {name}") if isinstance(value, str) else value
        for name, value in fields.items()
    }


def check(method: str | None, budget: Any, fields: Mapping[str, Any]) -> None:
    """Raises UserError for a method, a budget or fields that no model can have."""
    from hidrop.budget import parse_budget
    from hidrop.methods import PUBLISHED, field_types, method_class, type_problem, with_published

    if method is None:
        if fields:
            _check_names(fields, None)
            raise UserError(f"model_args: {', '.join(fields)} needs a method: add method=NAME")
        if budget is not None:
            raise UserError("model_args: budget needs a method: add method=NAME")
        return
    try:
        cls = method_class(method)
        types = field_types(cls)  # type: ignore[arg-type]  # a class can be hashed
        if budget is not None:
            parse_budget(budget)
    except ValueError as error:
        raise UserError(f"model_args: {error}") from None
    _check_names(fields, [*types, *([PUBLISHED] if cls.published else [])])
    given = values(fields)
    try:
        given = with_published(cls, given, budget=budget is not None)
    except ValueError as error:
        raise UserError(f"model_args: {error}") from None
    for name, value in given.items():
        if reason := type_problem(value, types[name], open_counts=budget is not None):
            raise UserError(f"model_args: {name}: {reason}" + ("" if cls.composed else f", not {shown(value)}"))


def _check_names(fields: Iterable[str], types: Iterable[str] | None) -> None:
    """Raises UserError for a field that is not in `types`; without a method (None), for a misspelt argument only."""
    known = [*(types or ()), *OWN]
    for name in fields:
        hint = did_you_mean(name, known)
        if name not in known and (hint or types is not None):
            raise UserError(f"model_args: {name} is unknown.{hint} Known: {', '.join(known)}")


def method(loaded: Loaded, name: str | None, budget: Budget | None, fields: Mapping[str, Any]) -> Reducer | None:
    """The method for these model arguments. Strings in `fields` are read as YAML. Raises UserError."""
    from hidrop.backbones import count_by
    from hidrop.budget import check_absolute, solve
    from hidrop.methods import build, method_class

    check(name, budget, fields)
    params, trained = values(fields), loaded.reducer
    own = trained if trained and budget is None and not params and name in (None, trained.name) else None
    if own is None and name is None:
        return None
    try:
        if own is not None:
            geometry = check_absolute(type(own), vars(own), None, loaded.geometry)
        else:
            geometry = check_absolute(method_class(str(name)), params, budget, loaded.geometry)
        if geometry.dynamic:
            count_by(loaded.model, **geometry.counting)
        if own is not None:
            reducer = own
        elif budget is not None:
            reducer = solve(str(name), params, budget, geometry)
        else:
            reducer = build(str(name), params)
        reducer.plan(geometry)
    except ValueError as error:
        raise UserError(f"model_args: {error}") from None
    return reducer
