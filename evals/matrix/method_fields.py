"""Checks the method entries of a matrix against the fields of the methods' classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hidrop import strict_yaml
from hidrop.errors import UserError, shortened, shown
from hidrop.methods import (
    METHODS,
    PUBLISHED,
    field_types,
    is_known,
    method_class,
    required_fields,
    type_problem,
    with_published,
)
from hidrop.outside_methods import offered
from hidrop.reducer import Reducer

CHECKPOINT = "checkpoint"  # the method that a checkpoint was trained with


def method_problems(data: dict[str, Any]) -> list[str]:
    """One line for each invalid name or field of a method. No model is needed."""
    places: list[tuple[str, Any, bool]] = []
    for section, inner in (("methods", None), ("models", "trained_with")):
        entries = data.get(section)
        for key, spec in entries.items() if isinstance(entries, dict) else ():
            path = f"{section}.{key}" + (f".{inner}" if inner else "")
            entry = spec.get(inner) if inner and isinstance(spec, dict) else spec if not inner else None
            if isinstance(entry, dict) and isinstance(entry.get("name"), str):
                places.append((path, entry, inner is None))
    return [line for path, entry, free in places for line in field_problems(path, entry, free)]


def field_problems(path: str, entry: dict[str, Any], free: bool) -> list[str]:
    """Invalid fields of one method entry. `free`: `name: checkpoint`, budgets and lists of seeds are allowed."""
    name = entry["name"]
    given = {k: v for k, v in entry.items() if k not in ("name", "budget")}
    if name == CHECKPOINT and free:
        return [f"{path}.{key}: the checkpoint sets this field; remove it" for key in entry if key != "name"]
    if not is_known(name):
        known = [*METHODS, *offered(), *([CHECKPOINT] if free else [])]
        own = " Your own: FILE.py:CLASS or MODULE:CLASS"
        return [f"{path}.name: unknown method '{shortened(name)}'.{strict_yaml.suggestion(name, known)}{own}"]
    try:
        cls = method_class(name)
    except UserError as error:
        return [f"{path}.name: {error}"]
    budget = entry.get("budget") is not None
    if PUBLISHED in given:
        try:
            given = with_published(cls, given, budget=budget)
        except ValueError as error:
            return [f"{path}.{error}"]
    lines = [f"{path}.{line}" for line in _value_problems(cls, given, budget, free)]
    lacking = [key for key in required_fields(cls) if key not in given]
    if budget and isinstance(given.get("keep"), int):
        lines.append(f"{path}.keep: the budget sets this field; give one of the two")
    if budget and not free:
        lines.append(f"{path}.budget: a checkpoint was trained with exact fields; give those")
    if lacking and not budget:
        way = ", or give a budget" if free else ""
        lines.append(f"{path}: {', '.join(lacking)} missing{way}")
    return lines


def _value_problems(cls: type[Reducer], given: dict[str, Any], budget: bool, free: bool) -> Iterator[str]:
    """Fields that the method does not have, and values of another type. See `field_problems`."""
    types = field_types(cls)  # type: ignore[arg-type]  # a class can be hashed
    for key, value in given.items():
        if key not in types:
            known = [*types, *([PUBLISHED] if cls.published else []), *(["budget"] if free else [])]
            yield f"{key}: unknown field.{strict_yaml.suggestion(str(key), known)}"
            continue
        several = key == "seed" and free and isinstance(value, list) and value
        for one in value if several else [value]:
            if reason := type_problem(one, types[key], open_counts=budget):
                yield f"{key}: {reason}" + ("" if cls.composed else f", not {shown(one)}")
