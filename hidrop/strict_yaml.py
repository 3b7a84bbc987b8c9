"""Reading a YAML file so that nothing in it is silently ignored or guessed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hidrop.errors import UserError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)

# By aliases, a file of a few lines can expand to more than any memory holds.
MOST_VALUES = 100_000


class StrictModel(BaseModel):
    """Base of every schema of a file: no unknown field passes, and nobody changes what was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice: YAML's default is that the last one wins, unseen."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            # An unhashable key is the parent class's own error, below.
            if not isinstance(key, (list, dict)) and key_node.tag != "tag:yaml.org,2002:merge":
                if key in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"'{key}' is given twice", key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)


def read(path: Path, name: str) -> dict[str, Any]:
    """The mapping in the file at `path`. Raises UserError, with `name` and line, for anything else."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{name}: cannot be read: {reason}") from None
    try:
        data = yaml.load(text, StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError(f"{name}: not valid YAML{where}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        raise UserError(f"{name}: must be a mapping of fields, as in the bundled files")
    if _values(data, {}) > MOST_VALUES:
        raise UserError(f"{name}: its aliases (*name) expand to more than {MOST_VALUES} values, or for themselves")
    return data


def _values(value: Any, known: dict[int, float]) -> float:
    """How many values `value` holds with each alias written out. What contains itself is infinite."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = math.inf  # for whoever meets it within itself
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_values(one, known) for one in inner)
    return known[id(value)]


def suggestion(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: " Did you mean 'x'?", or what is known, or nothing."""
    known = list(known)
    return did_you_mean(str(word), known) or (f" Known: {', '.join(known)}" if known else "")


def checked(model: type[Model], data: Any, name: str) -> Model:
    """What `data` says, by the schema `model`. Raises UserError with a line, `name` and place, for each mistake."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [line for block in problems(error, model) for line in block.splitlines()]
        raise UserError("\n".join(f"{name}: {line}" for line in lines)) from None


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line per mistake, "path.to.field: what is wrong", for a file that was checked against `model`."""
    lines: dict[str, None] = {}
    for item in error.errors(include_url=False):
        loc = [part for part in item["loc"] if not str(part).startswith("function-")]
        path, message = dotted(loc), item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            owner = type_at(model, loc[:-1])
            known = owner.model_fields if isinstance(owner, type) and issubclass(owner, BaseModel) else ()
            message = f"unknown field.{suggestion(str(loc[-1]), known)}"
        elif item["type"] == "missing":
            message = "is missing"
        elif item["type"] != "value_error":
            message = f"{message[0].lower()}{message[1:]}, not {shown(item['input'])}"
        lines[f"{path}: {message}" if path else message] = None
    return list(lines)


def dotted(loc: Iterable[Any]) -> str:
    """("runs", 0, "models") -> "runs[0].models"."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def type_at(annotation: Any, loc: list[Any]) -> Any:
    """The annotated type at `loc` below `annotation`, through mappings, lists and optionals."""
    if get_origin(annotation) in (Union, UnionType):
        inner = [a for a in get_args(annotation) if a is not NoneType]
        annotation = next((a for a in inner if isinstance(a, type) and issubclass(a, BaseModel)), inner[0])
    if not loc:
        return annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(loc[0]))
        return type_at(field.annotation, loc[1:]) if field else None
    inner = [a for a in get_args(annotation) if a is not Ellipsis]  # tuple[X, ...]
    return type_at(inner[-1], loc[1:]) if inner else None
