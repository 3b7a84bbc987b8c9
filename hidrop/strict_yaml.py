"""Reading a YAML file so that nothing in it is silently ignored or guessed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Strict, StringConstraints, ValidationError

from hidrop.errors import UserError, did_you_mean, shown
from hidrop.regular_files import Unreadable, read_text
from hidrop.visible import UNSEEN, visible

Model = TypeVar("Model", bound=BaseModel)

# A name that becomes a part of a file's or folder's name.
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._%+-]*$", max_length=80)]

# A whole number, and true or false. pydantic's own int also takes true, 8.0 and "8", and its bool takes 1 and "yes".
Whole = Annotated[int, Strict()]
Flag = Annotated[bool, Strict()]

# What a file may hold. By aliases, a file of a few lines can expand to more than any memory holds.
MOST_BYTES = 1 << 19
MOST_VALUES = 100_000
MOST_DEPTH = 32
MOST_CHARACTERS = 4096  # of one text
LARGEST = 2**63
STANDARD = "tag:yaml.org,2002:"  # written as !!
LONGEST_NUMBER = 40  # characters; Python needs quadratic time for a number's digits


class StrictModel(BaseModel):
    """Base of every schema of a file: no unknown field passes, and nobody changes what was read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses what is guessed, hidden or endless.

    That is: a key given twice (YAML's default is that the last one wins, unseen), tags such as !!set, deep nesting,
    aliases that expand to more than MOST_VALUES values, invisible characters, and numbers that are not decimal, not
    finite or beyond 64 bits. A date is a text.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._total = 0
        self._sizes: dict[int, int] = {}  # values of each finished node, aliases written out

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise _wrong(f"the alias *{event.anchor} is inside of its own value", event.start_mark)
            return self._counted(node, self._sizes[id(node)], event)
        if getattr(event, "tag", None) is not None:
            tag = event.tag.replace(STANDARD, "!!")
            raise _wrong(f"tags such as {tag} are not supported. Write the value without it", event.start_mark)
        before = self._total
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _wrong(f"nested deeper than {MOST_DEPTH} levels", event.start_mark)
        node = self._counted(super().compose_node(parent, index), 1, event)
        self._depth -= 1
        self._sizes[id(node)] = self._total - before
        if isinstance(node, yaml.ScalarNode):
            self._check_text(node)
        return node

    def _counted(self, node: yaml.Node | None, values: int, event: yaml.Event) -> yaml.Node | None:
        self._total += values
        if self._total > MOST_VALUES:
            raise _wrong(f"with its aliases (*name) it has more than {MOST_VALUES} values", event.start_mark)
        return node

    @staticmethod
    def _check_text(node: yaml.ScalarNode) -> None:
        if node.tag == f"{STANDARD}merge":
            raise _wrong("merging with << is not supported. Write the fields out", node.start_mark)
        if len(node.value) > MOST_CHARACTERS:
            raise _wrong(f"a text of more than {MOST_CHARACTERS} characters", node.start_mark)
        if found := UNSEEN.search(node.value):
            raise _wrong(f"the invisible character {visible(found[0])} in a text", node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (list, dict)):  # an unhashable key is the parent class's own error, below
                if key in seen:
                    raise _wrong(f"'{key}' is given twice", key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A decimal number. YAML 1.1 also reads 010 as 8, 1:30 as 90 and 1_0 as 10."""
        whole = node.tag == f"{STANDARD}int"
        if ":" in node.value or (whole and re.match(r"[-+]?0.", node.value)):
            raise _wrong(f"{shown(node.value)} is not a decimal number. For a text, put it in quotes", node.start_mark)
        if "_" in node.value:
            raise _wrong(f"write {shown(node.value)} without _, or in quotes if it is a text", node.start_mark)
        if len(node.value) <= LONGEST_NUMBER:
            number = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
            if abs(number) <= LARGEST:
                return number
        raise _wrong(f"{shown(node.value)} is not a number of at most 64 bits", node.start_mark)


for kind in ("int", "float"):
    StrictLoader.add_constructor(f"{STANDARD}{kind}", StrictLoader.construct_number)
# Without these rules 2026-11-25 and = are read as texts.
StrictLoader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] not in (f"{STANDARD}timestamp", f"{STANDARD}value")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _wrong(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def read(path: Path, name: str) -> dict[str, Any]:
    """The mapping in the file at `path`. Raises UserError, with `name` and line, for anything else."""
    return mapping(text_of(path, name), name)


def text_of(path: Path, name: str) -> str:
    """The text of the file at `path`. Raises UserError, with `name`, if it cannot be read."""
    try:
        return read_text(path, MOST_BYTES)
    except Unreadable as reason:
        raise UserError(f"{name}: cannot be read: {reason}") from None


def mapping(text: str, name: str) -> dict[str, Any]:
    """The mapping in a YAML text. Raises UserError, with `name` and line, for anything else."""
    data = value(text, name)
    if not isinstance(data, dict):
        raise UserError(f"{name}: must be a mapping of fields, as in the bundled files")
    return data


def value(text: str, name: str) -> Any:
    """The value of a YAML text. Raises UserError, with `name` and line, for one that is not valid."""
    try:
        return yaml.load(text, StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise UserError(f"{name}: not valid YAML{where}: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from None


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
        elif item["type"] == "too_short" and not item["input"]:
            message = "is empty; it needs at least one entry"
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
