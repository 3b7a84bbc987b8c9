"""Methods by name, and methods from their fields as a matrix, a recipe or a checkpoint writes them."""

from __future__ import annotations

import functools
import importlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Annotated, Any, get_origin, get_type_hints

from hidrop import outside_methods
from hidrop.errors import UserError, did_you_mean, shortened, shown
from hidrop.geometry import PRESETS, Geometry
from hidrop.method_source import method_digest
from hidrop.own_packages import check_own_packages
from hidrop.reducer import Reducer

CODE = "code_sha256"  # of a method outside of hidrop, next to its fields in a checkpoint
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
    "dart": "baselines.dart:DART",
    "feather": "baselines.feather:Feather",
    "vtw": "baselines.vtw:VTW",
    "fastervlm": "baselines.fastervlm:FasterVLM",
    "vispruner": "baselines.vispruner:VisPruner",
    "holov": "baselines.holov:HoloV",
    "prumerge": "baselines.prumerge:PruMerge",
    "cdpruner": "baselines.cdpruner:CDPruner",
    "downsample": "baselines.downsample:Downsample",
    "text_only": "baselines.text_only:TextOnly",
    "stack": "hidrop.stacks.stack:Stack",
}


def method_class(name: str) -> type[Reducer]:
    """The class of a method: one of METHODS, or one outside of hidrop (see `outside_methods`), whose code is imported.

    Raises ValueError with a suggestion for an unknown name, and UserError for code that cannot be imported.
    """
    if not is_known(name):
        hint = did_you_mean(str(name), [*METHODS, *outside_methods.offered()])
        raise ValueError(
            f"unknown method '{shortened(str(name))}'.{hint} Known: {', '.join(METHODS)}. "
            "Your own: FILE.py:CLASS or MODULE:CLASS"
        )
    if name not in METHODS:
        found = outside_methods.find(name)
        if found.name in METHODS and not _is_bundled(found):
            raise UserError(
                f"method '{shortened(name)}': its name, '{found.name}', is that of a method of hidrop. "
                "Give the class a name of its own"
            )
        return found
    module, cls = METHODS[name].split(":")
    try:
        return getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError):
        check_own_packages()  # another project's package of the same name may be in the way
        raise


def is_known(name: object) -> bool:
    """Whether a name is a method's, or says where one is. Imports nothing."""
    if not isinstance(name, str):
        return False
    return name in METHODS or outside_methods.is_reference(name) or name in outside_methods.offered()


def reference(reducer: Reducer) -> str:
    """The name by which a checkpoint or another file refers to a method, for `build_found`."""
    return class_reference(type(reducer))


def entry_of(reducer: Reducer) -> dict[str, Any]:
    """A method as a checkpoint writes it, for `build_found`."""
    code = {} if all(map(_is_bundled, reducer.classes)) else {CODE: method_digest(reducer)}
    return {"name": reference(reducer), **asdict(reducer), **code}


def class_reference(cls: type[Reducer]) -> str:
    """See `reference`."""
    return cls.name if _is_bundled(cls) else outside_methods.reference(cls)


def _is_bundled(cls: type[Reducer]) -> bool:
    return METHODS.get(cls.name) == f"{cls.__module__}:{cls.__qualname__}"


def build(name: str, params: dict[str, Any] | None = None) -> Reducer:
    """A method from its name and its fields, as a matrix has them. Lists become tuples.

    Raises ValueError for an unknown method or field (with a suggestion) or a missing one.
    """
    cls = method_class(name)
    return made(cls, name, cls.with_nested(params, build_entry) if cls.composed and params else params)


def made(cls: type[Reducer], name: str, params: Mapping[str, Any] | None) -> Reducer:
    """A method of this class; `name` is for messages. Raises ValueError like `build`."""
    given = checked_params(cls, params)
    if lacking := [key for key in required_fields(cls) if key not in given]:
        raise ValueError(f"{name}: {', '.join(lacking)} missing")
    return cls(**given)


def build_entry(entry: Mapping[str, Any], geometry: Geometry | None = None) -> Reducer:
    """A method as recipes write it: {"name": ..., its fields}, or {"stack": ...}, for a model of this geometry if it is
    known.

    Raises ValueError like `build`, and with a geometry like `check_published`.
    """
    name = str(entry.get("name", "stack" if "stack" in entry else ""))
    params = {key: value for key, value in entry.items() if key != "name"}
    if geometry is not None:
        check_published(method_class(name), params, geometry)
    return build(name, params)


def build_found(entry: Mapping[str, Any]) -> Reducer:
    """A method as a checkpoint writes it, which may be somebody else's: like `build_entry`, and imports no code.

    Raises ValueError for a method outside of hidrop that the user has not named before, and for one with other code.
    """
    name, params = str(entry.get("name", "")), {key: value for key, value in entry.items() if key != "name"}
    digest = params.pop(CODE, None)
    if name in METHODS or not is_known(name):
        cls = method_class(name)
        params = cls.with_nested(params, build_found) if cls.composed else params
    else:
        named = outside_methods.named_before(name, digest)
        if named is None:
            fields = ", ".join(f"{key}: {value}" for key, value in params.items())
            written = f"{{name: {'./' if '.py:' in name else ''}{shortened(f'{name}, {fields}')}}}"
            raise ValueError(
                f"the weights were trained with {shortened(name)}, a method outside of hidrop, whose code is imported "
                f"only where you name it: in a matrix trained_with: {written}, the same as method= and fields in "
                "model_args, or hidrop.build before hidrop.load"
            )
        cls = named
    reducer = made(cls, name, params)
    if digest not in (None, found := method_digest(reducer)):
        raise ValueError(
            f"the weights were trained with other code of {shortened(name)} (sha256 {shortened(str(digest), 12)}) than "
            f"you named ({found[:12]}): name the file that they were trained with. To use them without their method, "
            'write "hidrop": null into their config.json'
        )
    return reducer


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
            known = [*types, *([PUBLISHED] if cls.published else [])]
            hint = did_you_mean(key, known)
            raise ValueError(f"{key}: unknown field of {cls.name}.{hint} It has: {', '.join(known) or 'none'}")
        if reason := type_problem(value, types[key], open_counts=open_counts):
            raise ValueError(f"{key}: {reason}" if cls.composed else f"{cls.name}: {key}: {reason}, not {value!r}")
    return {key: tuple(value) if isinstance(value, list) else value for key, value in params.items()}


def with_published(cls: type[Reducer], params: Mapping[str, Any], *, budget: bool = False) -> dict[str, Any]:
    """The fields of `params` with those of its published setting in place of the setting's name.

    A name may be a number, as YAML reads 64. Raises ValueError for an unknown setting, a field that the setting has as
    well, and a budget next to it.
    """
    if PUBLISHED not in params:
        return dict(params)
    own = {key: value for key, value in params.items() if key != PUBLISHED}
    known = ", ".join(cls.published) or "none"
    if not _is_setting_name(params[PUBLISHED]):
        raise ValueError(f"{PUBLISHED}: the name of one setting, not {shown(params[PUBLISHED])}. There are: {known}")
    name = str(params[PUBLISHED])
    if name not in cls.published:
        hint = did_you_mean(name, cls.published)
        raise ValueError(f"{PUBLISHED}: {cls.name} has no setting '{shortened(name)}'.{hint} It has: {known}")
    setting = cls.published[name].fields
    if twice := [key for key in own if key in setting]:
        raise ValueError(f"{PUBLISHED}: {name} already sets {', '.join(twice)}; give one of the two")
    if budget:
        raise ValueError(f"{PUBLISHED}: {name} has a budget already; give one of the two")
    return {**setting, **own}


def _is_setting_name(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def check_published(cls: type[Reducer], params: Mapping[str, Any], geometry: Geometry) -> None:
    """Raises ValueError for a published setting of models with other numbers of layers or visual tokens.

    Of a method that is made of others, theirs are checked too.
    """
    for _, part, own in cls.nested(params):
        check_published(part, own, geometry)
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
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def required_fields(cls: type[Reducer]) -> list[str]:
    """The fields of a method's dataclass that have no default."""
    return [field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING]


def _parts(value: Any) -> tuple[Any, ...] | list[Any]:
    return value if isinstance(value, (tuple, list)) else [value]


def type_problem(value: Any, expected: Any, *, open_counts: bool = False) -> str | None:
    """Why a value is not of a field's type; None when it is. See `checked_params`."""
    from pydantic import TypeAdapter, ValidationError

    if open_counts and isinstance(value, (list, tuple)):
        value = [part for part in value if part is not None]
    adapter = TypeAdapter(expected)
    if any(isinstance(part, float) and not math.isfinite(part) for part in _parts(value)):
        return "a number has to be finite"
    try:
        if get_origin(expected) is Annotated:  # it has a check of its own
            adapter.validate_python(value)
        else:  # Strict JSON: a list may stand for a tuple, but "2" is not 2.
            adapter.validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        return f"{message[0].lower()}{message[1:]}"
    return None
