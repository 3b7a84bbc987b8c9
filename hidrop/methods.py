"""Methods by name, and methods from their fields as a matrix, a recipe or a checkpoint writes them."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from hidrop.errors import did_you_mean
from hidrop.geometry import PRESETS, Geometry
from hidrop.own_packages import check_own_packages
from hidrop.reducer import Reducer

PUBLISHED = "published"  # in the place of fields: the name of one of the method's published settings

# Where each method lives. Imported on demand, so that `--help` and plans stay fast.
METHODS: dict[str, str] = {
    "vanilla": "baselines.vanilla:Vanilla",
    "hidrop": "hidrop.hidrop:HiDrop",
    "fastv": "baselines.fastv:FastV",
    "pdrop": "baselines.pdrop:PDrop",
    "sparsevlm": "baselines.sparsevlm:SparseVLM",
    "random": "baselines.random:Random",
    "uniform": "baselines.uniform:Uniform",
    "pool": "baselines.pool:Pool",
    "divprune": "baselines.divprune:DivPrune",
    "visionzip": "baselines.visionzip:VisionZip",
    "downsample": "baselines.downsample:Downsample",
    "text_only": "baselines.text_only:TextOnly",
}


def method_class(name: str) -> type[Reducer]:
    """The class of a method, by its name. Raises ValueError with a suggestion for an unknown one."""
    if not isinstance(name, str) or name not in METHODS:
        hint = did_you_mean(str(name), METHODS)
        raise ValueError(f"unknown method '{name}'.{hint} Known: {', '.join(METHODS)}")
    module, cls = METHODS[name].split(":")
    try:
        return getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError):
        check_own_packages()  # another project's package of the same name may be in the way
        raise


def build(name: str, params: dict[str, Any] | None = None) -> Reducer:
    """A method from its name and its fields, as a matrix has them. Lists become tuples.

    Raises ValueError for an unknown method or field (with a suggestion) or a missing one.
    """
    cls = method_class(name)
    given = checked_params(cls, params)
    if lacking := [key for key in required_fields(cls) if key not in given]:
        raise ValueError(f"{name}: {', '.join(lacking)} missing")
    return cls(**given)


def build_entry(entry: Mapping[str, Any]) -> Reducer:
    """A method as checkpoints and recipes write it: {"name": ..., its fields}. Raises ValueError like `build`."""
    return build(str(entry.get("name", "")), {key: value for key, value in entry.items() if key != "name"})


def checked_params(
    cls: type[Reducer], params: Mapping[str, Any] | None, *, open_counts: bool = False
) -> dict[str, Any]:
    """A method's fields with lists as tuples, after a check of their names and types.

    `published` in `params` is the name of a published setting, whose fields take its place. `open_counts`: a budget is
    given, and None in a list is a count that it decides. Raises ValueError for a field that the method does not have,
    with the nearest one, for a value of another type, and like `with_published`.
    """
    params = with_published(cls, params or {}, budget=open_counts)
    types = field_types(cls)  # type: ignore[arg-type]  # a class can be hashed
    for key, value in params.items():
        if key not in types:
            hint = did_you_mean(key, types)
            raise ValueError(f"{key}: unknown field of {cls.name}.{hint} It has: {', '.join(types) or 'none'}")
        if reason := type_problem(value, types[key], open_counts=open_counts):
            raise ValueError(f"{cls.name}: {key}: {reason}, not {value!r}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in params.items()}


def with_published(cls: type[Reducer], params: Mapping[str, Any], *, budget: bool = False) -> dict[str, Any]:
    """The fields of `params` with those of its published setting in place of the setting's name.

    Raises ValueError for an unknown setting, a field that the setting has as well, and a budget beside it.
    """
    if PUBLISHED not in params:
        return dict(params)
    own = {key: value for key, value in params.items() if key != PUBLISHED}
    name = str(params[PUBLISHED])
    if name not in cls.published:
        known = ", ".join(cls.published) or "none"
        raise ValueError(f"{PUBLISHED}: {cls.name} has no setting '{name}'. It has: {known}")
    setting = cls.published[name].fields
    if twice := [key for key in own if key in setting]:
        raise ValueError(f"{PUBLISHED}: {name} already sets {', '.join(twice)}; give one of the two")
    if budget:
        raise ValueError(f"{PUBLISHED}: {name} has a budget already; give one of the two")
    return {**setting, **own}


def check_published(cls: type[Reducer], params: Mapping[str, Any], geometry: Geometry) -> None:
    """Raises ValueError for a published setting of models with other numbers of layers or visual tokens."""
    setting = cls.published.get(str(params.get(PUBLISHED)))
    if setting is None:
        return
    sizes = {name: (PRESETS[name].layers, PRESETS[name].visual_tokens) for name in setting.models}
    if (geometry.layers, geometry.visual_tokens) not in sizes.values():
        published = " or ".join(
            f"{name} ({depth} layers, {tokens} visual tokens)" for name, (depth, tokens) in sizes.items()
        )
        raise ValueError(
            f"{cls.name}: {PUBLISHED}: {params[PUBLISHED]} is a setting for {published}, and this model has "
            f"{geometry.layers} layers and {geometry.visual_tokens} visual tokens; give a budget or the fields"
        )


@functools.cache
def field_types(cls: type[Reducer]) -> dict[str, Any]:
    """The type of each field of a method's dataclass."""
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def required_fields(cls: type[Reducer]) -> list[str]:
    """The fields of a method's dataclass that have no default."""
    return [field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING]


def type_problem(value: Any, expected: Any, *, open_counts: bool = False) -> str | None:
    """Why a value is not of a field's type; None when it is. See `checked_params`."""
    from pydantic import TypeAdapter, ValidationError

    if open_counts and isinstance(value, (list, tuple)):
        value = [part for part in value if part is not None]
    try:
        # Strict JSON: a list may stand for a tuple, but "2" is not 2.
        TypeAdapter(expected).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"]
        return f"{message[0].lower()}{message[1:]}"
    return None
