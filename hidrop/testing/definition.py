"""Properties of a method that need no model: its class, its name, its fields and its schedule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from hidrop.geometry import PRESETS, Geometry
from hidrop.methods import METHODS, PUBLISHED, checked_params, field_types, method_class, required_fields
from hidrop.plan import Schedule
from hidrop.reducer import Reducer
from hidrop.testing.properties import Property
from hidrop.testing.report import Fault, Skip

# What a matrix writes next to a method's fields.
RESERVED = ("name", "budget", PUBLISHED)


@dataclass(frozen=True)
class Definition:
    """A method with the sizes of the tiny models: 6 layers and 16 visual tokens."""

    method: Reducer
    geometry: Geometry


def own_dataclass(it: Definition) -> None:
    cls: Any = type(it.method)
    if "__dataclass_params__" not in vars(cls):
        raise Fault(f"{cls.__name__} has no @dataclass(frozen=True) of its own")
    try:
        types = field_types(cls)
    except NameError as error:
        raise Fault(f"a type of {cls.__name__} cannot be found: {error}") from None
    class_wide = {name for base in cls.__mro__ for name in vars(base).get("__annotations__", {})}
    for name, value in vars(cls).items():
        plain = isinstance(value, (bool, int, float, str, tuple, list, dict)) and not name.startswith("_")
        if plain and name not in class_wide and not hasattr(Reducer, name):
            raise Fault(f"`{name} = {value!r}` has no type, so it is no field")
    if taken := [name for name in types if name in RESERVED]:
        raise Fault(f"the field `{taken[0]}` has a name that a matrix uses for something else")
    values = {name: getattr(it.method, name) for name in types}
    try:
        checked_params(cls, values)
        hash(it.method)
    except (ValueError, TypeError) as error:
        raise Fault(str(error)) from None


def own_name(it: Definition) -> None:
    cls = type(it.method)
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w.-]*", name):
        raise Fault(f"name is {name!r}")
    if name in METHODS and method_class(name) is not cls:
        raise Fault(f"'{name}' is the name of one of hidrop's own methods, {method_class(name).__name__}")


def counted_fields(it: Definition) -> None:
    cls = type(it.method)
    names = [field.name for field in fields(it.method)]
    if unknown := [name for name in cls.counts if name not in names]:
        raise Fault(f"counts names `{unknown[0]}`, which is not a field. The fields: {', '.join(names) or 'none'}")
    for name in names:
        if name not in cls.counts and (left := moved_counts(it, name)) is not None:
            raise Fault(
                f"counts does not name `{name}`, but the schedule leaves {left} tokens of an image of any size, and "
                f"other numbers with another `{name}`"
            )


def moved_counts(it: Definition, name: str) -> list[int] | None:
    """What the cuts leave, if a field is what says how many tokens that is: in an image of any size.

    None for a field that changes no count, that changes where the cuts are, or that is a share.
    """
    sizes = [it.geometry, it.geometry.with_visual_tokens(4 * it.geometry.visual_tokens)]
    try:
        first = [it.method.schedule(one).cuts for one in sizes]
    except Exception:
        return None  # "schedule" says so
    left = [cut.left for cut in first[0]]
    if first[0] != first[1] or not any(left):
        return None
    for value in neighbours(getattr(it.method, name)):
        try:
            changed: Any = replace(it.method, **{name: value})
            small, large = (changed.schedule(one).cuts for one in sizes)
        except Exception:  # not every value has to be possible
            continue
        same_places = [cut.after for cut in small] == [cut.after for cut in first[0]]
        if same_places and small == large and small != first[0]:
            return left
    return None


def neighbours(value: Any) -> Iterator[Any]:
    """A whole number one less and one more; lists of whole numbers with one of them changed."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield from (value - 1, value + 1)
    elif isinstance(value, tuple):
        for place, one in enumerate(value):
            yield from ((*value[:place], other, *value[place + 1 :]) for other in neighbours(one))


def published_settings(it: Definition) -> None:
    cls = type(it.method)
    if not cls.published:
        raise Skip("the method has no published settings")
    for label, setting in cls.published.items():
        try:
            given = checked_params(cls, setting.fields)
            if any(name not in given for name in required_fields(cls)):
                continue  # the user gives the others
            yours = [name for name in cls.checkpoints if name not in given]
            for model in setting.models:
                try_setting(cls, given, yours, PRESETS[model])
        except (ValueError, TypeError) as error:
            raise Fault(f"published['{label}']: {error}") from None


def try_setting(cls: type[Reducer], given: dict[str, Any], yours: list[str], geometry: Geometry) -> None:
    """Plan it; with the name of a folder for the checkpoints that are the user's, if it does not do without them."""
    try:
        cls(**given).on(geometry).plan(geometry)
    except ValueError:
        if not yours:
            raise
        cls(**given, **dict.fromkeys(yours, "FOLDER")).on(geometry).plan(geometry)


def pure_schedule(it: Definition) -> None:
    from torch.overrides import TorchFunctionMode

    called: list[str] = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            called.append(getattr(func, "__name__", str(func)))
            return func(*args, **(kwargs or {}))

    with Watch():
        first = it.method.schedule(it.geometry)
        for tokens in (16, 17, 64, 1, 576):  # other images in between change nothing
            try_plan(it.method, it.geometry.with_visual_tokens(tokens))
        again = [it.method.schedule(it.geometry), replace(it.method).schedule(it.geometry)]
    if not isinstance(first, Schedule):
        raise Fault(f"schedule gave {type(first).__name__}, not a Schedule")
    for other in again:
        if other != first:
            raise Fault(f"two calls for the same geometry gave two schedules: {first}, then {other}")
    if called:
        raise Fault(f"schedule calls torch ({called[0]})")
    first.check(it.geometry)
    none = it.method.plan(it.geometry, 0).entering
    if any(none):
        raise Fault(f"a prompt without an image is planned to hold {none} visual tokens")


def try_plan(method: Reducer, geometry: Geometry) -> None:
    """A plan that may be refused: counts of 16 tokens need not fit an image of one token."""
    try:
        method.plan(geometry)
    except ValueError:
        return


PROPERTIES: tuple[Property[Definition], ...] = (
    Property(
        "dataclass",
        "a method is a frozen dataclass whose fields have types, can be written as YAML and never change",
        "put @dataclass(frozen=True) on the class, give every field a type (int, float, str, bool, Literal, tuples of "
        "these, or None), and make lists tuples",
        own_dataclass,
    ),
    Property(
        "name",
        "a method has a name of its own: letters, digits, - and _",
        'write `name: ClassVar[str] = "my-method"` in the class',
        own_name,
    ),
    Property(
        "counts",
        "fields that are numbers of tokens are named in `counts`: they have a meaning for a reference image only",
        'write `counts: ClassVar[tuple[str, ...]] = ("keep",)` with the names of these fields',
        counted_fields,
    ),
    Property(
        "published",
        "every published setting has fields of the method, with values of their types, and a plan for its models",
        "correct the fields of Published(...), or the models that it names. A field of the user's may be missing",
        published_settings,
    ),
    Property(
        "schedule",
        "schedule is pure arithmetic on the geometry: the same result in every call, and no tensors",
        "compute it from self and geometry alone. The tiny models have 6 layers and 16 visual tokens: check a method "
        "with fields that fit them, such as layer=2, keep=5",
        pure_schedule,
    ),
)
