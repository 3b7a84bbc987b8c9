"""What can be told of a method without running it, for `run.py methods`: no torch, no weights, no GPU."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hidrop import outside_methods
from hidrop.backbones import BACKBONES, backbone_class
from hidrop.geometry import PRESETS, Geometry
from hidrop.methods import METHODS, PUBLISHED, build, checked_params, field_types, method_class, required_fields
from hidrop.reducer import BudgetError, Reducer

HERE = "hidrop"  # where the methods of METHODS are from
FOLDER = "FOLDER"  # stands for a checkpoint that the user has; a plan reads none
WHEN = ("tower", "late entry", "input", "layers", "exit", "never")  # when a method works; input: before layer 1
MODEL = "llava-1.5-7b"  # whose sizes say when a method works that has no published setting


@dataclass(frozen=True)
class Field:
    """A field of a method, as YAML has it. `default`: None for a field that has to be given, or that a budget sets."""

    name: str
    type: str
    default: str | None


@dataclass(frozen=True)
class Planned:
    """The plan of a published setting on one of its models. `bound`: how counted tokens compare (`Reducer.bound`).

    `lacking`: why there is no plan. `invalid`: the setting itself is wrong; else it needs a field of the user's (the
    folder of a checkpoint).
    """

    model: str
    visual_tokens: int
    average_tokens: float | None = None
    bound: str = ""
    lacking: str = ""
    invalid: bool = False


@dataclass(frozen=True)
class Setting:
    """A published setting: its fields, those that name a checkpoint of the user's (`yours`), and its plans."""

    name: str
    fields: Mapping[str, Any]
    yours: tuple[str, ...]
    plans: tuple[Planned, ...]


@dataclass(frozen=True)
class Facts:
    """A method. `when`, `runs_on` and `refused` are empty for one that is `composed` of others: they are its members'.

    `does`: in one line. `says`: how its fields do it. `when`: words of `method_facts.WHEN`; empty where only the fields
    say it. `runs_on`: model types. `refused`: the others, with the reason. `budget`: whether
    one can be solved for. `origin`: hidrop, the package of an entry
    point, or the user. `place`: MODULE:CLASS or FILE:CLASS.
    """

    name: str
    does: str
    says: str
    composed: bool
    when: tuple[str, ...]
    fields: tuple[Field, ...]
    budget: bool
    published: tuple[Setting, ...]
    runs_on: tuple[str, ...]
    refused: Mapping[str, str]
    paper: str
    code: str
    origin: str
    place: str


@dataclass(frozen=True)
class Offered:
    """A method that an installed package offers, whose code nobody has imported. `origin`: the package.

    `taken`: whether the name alone means another method, one of hidrop's, or is offered by several packages; its
    `place` names it then.
    """

    name: str
    origin: str
    place: str
    taken: bool


def listed() -> list[Facts | Offered]:
    """All methods that a matrix can name: those of hidrop, and the entry points of other packages."""
    return [*map(facts, METHODS), *offered()]


def offered() -> list[Offered]:
    """The entry points of other packages. Imports none of them."""
    return [
        Offered(name, _package(point), point.value, name in METHODS or len(points) > 1)
        for name, points in outside_methods.offered().items()
        for point in points
    ]


def facts(name: str) -> Facts:
    """What is known of a method. Code outside of hidrop is imported. Raises ValueError like `method_class`."""
    cls = method_class(name)
    says = " ".join((cls.__doc__ or "").partition("\n\n")[0].split())
    refused = _refused(cls)
    return Facts(
        name if name in METHODS else cls.name,
        _headline(cls) if name in METHODS else says.partition(". ")[0].removesuffix("."),
        says,
        cls.composed,
        _when(cls, name),
        _fields(cls),
        _takes_budget(cls),
        _settings(cls, name),
        () if cls.composed else tuple(kind for kind in BACKBONES if kind not in refused),
        refused,
        cls.paper,
        cls.code,
        _origin(name),
        f"{cls.__module__}:{cls.__qualname__}" if name in METHODS else _place(cls),
    )


def summary(name: str) -> tuple[str, str, str]:
    """What a method of METHODS does, in one line, its paper and its code."""
    cls = method_class(name)
    return _headline(cls), cls.paper, cls.code


def _package(point: Any) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an installed package"


def _origin(name: str) -> str:
    if name in METHODS:
        return HERE
    if outside_methods.is_reference(name):
        return "your own"
    return _package(outside_methods.offered()[name][0])


def _place(cls: type[Reducer]) -> str:
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return f"{Path(file) if file else cls.__module__}:{cls.__qualname__}"


def _headline(cls: type[Reducer]) -> str:
    """What the first line of a method's file says: of `FastV (ECCV 2024, arXiv ...): one cut.` it is `one cut`."""
    first = (importlib.import_module(cls.__module__).__doc__ or "").partition("\n")[0]
    _, titled, rest = first.partition("): ")
    does = (rest if titled else first).partition(". ")[0].removesuffix(".")
    return does[:1].upper() + does[1:]


def _fields(cls: type[Reducer]) -> tuple[Field, ...]:
    types = field_types(cls)  # type: ignore[arg-type]  # a class can be hashed
    defaults = {one.name: None if one.default is MISSING else as_yaml(one.default) for one in fields(cls)}
    return tuple(Field(name, type_text(types[name]), default) for name, default in defaults.items())


def type_text(hint: Any) -> str:
    """The type of a field in words of YAML: `list of int or null`."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_text(parts[0])
    if origin is Literal:
        return " or ".join(map(as_yaml, parts))
    if origin in (Union, UnionType):
        return " or ".join(map(type_text, parts))
    if origin is tuple:
        inner = "" if parts[0] is Any else f" of {'' if parts[-1] is ... else f'{len(parts)} '}{type_text(parts[0])}"
        return f"list{inner}"
    return "null" if hint is NoneType else getattr(hint, "__name__", str(hint))


def as_yaml(value: Any) -> str:
    """A field's value as a matrix has it; a text that YAML would read as a number is quoted."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(as_yaml, value))}]"
    return f'"{value}"' if isinstance(value, str) and value.replace(".", "").isdigit() else str(value)


def _settings(cls: type[Reducer], name: str) -> tuple[Setting, ...]:
    found = []
    for label, one in cls.published.items():
        yours: tuple[str, ...] = ()
        plans = [_planned(name, {PUBLISHED: label}, model) for model in one.models]
        if any(plan.lacking for plan in plans):
            yours = tuple(key for key in cls.checkpoints if key not in one.fields)
            fields = {PUBLISHED: label, **dict.fromkeys(yours, FOLDER)}
            plans = [_planned(name, fields, model) for model in one.models]
        found.append(Setting(label, dict(one.fields), yours, tuple(plans)))
    return tuple(found)


def _planned(name: str, fields: dict[str, Any], model: str) -> Planned:
    geometry = PRESETS[model]
    try:
        reducer = build(name, fields).on(geometry)
        average = reducer.plan(geometry).average_tokens
    except ValueError as error:
        invalid = not _needs_more(method_class(name), fields)
        return Planned(model, geometry.visual_tokens, lacking=str(error).removeprefix(f"{name}: "), invalid=invalid)
    return Planned(model, geometry.visual_tokens, average, reducer.bound)


def _needs_more(cls: type[Reducer], fields: dict[str, Any]) -> bool:
    """Whether the fields are right as far as they go, and some that the user gives are missing."""
    try:
        given = checked_params(cls, fields)
    except ValueError:
        return False
    return any(key not in given for key in (*required_fields(cls), *cls.checkpoints))


def _when(cls: type[Reducer], name: str) -> tuple[str, ...]:
    """When it works, read off the schedule of the first of its examples that has one."""
    for reducer, geometry in () if cls.composed else _examples(cls, name):
        try:
            schedule = reducer.schedule(geometry)
        except Exception:  # it may be somebody's own code
            continue
        first, layers = schedule.inject - 1, [cut.after for cut in schedule.cuts]
        there = (
            reducer.encodes,
            first > 0,
            first in layers and not reducer.encodes,  # methods of the tower cut their padding there
            any(layer > first for layer in layers),
            schedule.exit is not None,
        )
        return tuple(word for word, one in zip(WHEN, there, strict=False) if one) or WHEN[-1:]
    return ()


def _examples(cls: type[Reducer], name: str) -> Iterator[tuple[Reducer, Geometry]]:
    """The method in its published settings, with its defaults, and with a budget of half of the tokens."""
    geometry = PRESETS[MODEL]
    for label, setting in cls.published.items():
        with contextlib.suppress(ValueError):
            yield build(name, {PUBLISHED: label}), PRESETS[setting.models[0]]
    if not required_fields(cls):
        yield cls(), geometry
    with contextlib.suppress(Exception):  # it may be somebody's own code
        yield cls.for_budget(geometry.visual_tokens / 2, geometry), geometry


def _takes_budget(cls: type[Reducer]) -> bool:
    """Whether half of the tokens is no budget that a method refuses; it may ask for other fields with it."""
    try:
        cls.for_budget(PRESETS[MODEL].visual_tokens / 2, PRESETS[MODEL])
    except BudgetError:
        return False
    except Exception:  # fields that are missing, or somebody's own code
        return True
    return True


def _refused(cls: type[Reducer]) -> dict[str, str]:
    found = {}
    for kind in BACKBONES:
        family = backbone_class(kind)
        assert family is not None
        if (why := cls.refuses(family)) is not None:
            found[kind] = why.removeprefix(f"{family.title}: ")
    return found
