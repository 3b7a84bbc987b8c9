"""The members of a stack as users, checkpoints and results write them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hidrop.errors import shown
from hidrop.methods import checked_params, method_class
from hidrop.reducer import BudgetError, Reducer

NAME = "stack"


@dataclass(frozen=True)
class Part:
    """A member as it is written, before its fields make a method. `method`: the name of its method.

    `built`: the method itself, of a member that is no more written. Its name then says where its class was found, and
    is not looked up again: another class may be there for somebody else.
    """

    label: str
    method: str
    params: Mapping[str, Any]
    built: Reducer | None = None

    @property
    def cls(self) -> type[Reducer]:
        return method_class(self.method) if self.built is None else type(self.built)


@dataclass(frozen=True)
class Member:
    """A method of a stack. `method`: its name, or where its class is (see `methods.reference`)."""

    label: str
    method: str
    fields: Reducer


def parts_of(stack: Any) -> list[Part]:
    """The members in a list of `{METHOD: {FIELDS}}`; `{LABEL: {name: METHOD, ...}}` gives one another label.

    Also reads what a built stack holds, and what a checkpoint has written of one. Raises ValueError for anything else,
    and for two members of the same label.
    """
    if not isinstance(stack, (list, tuple)) or len(stack) < 2:
        raise ValueError("write a list of at least two methods, such as [visionzip: {...}, pdrop: {...}]")
    parts = [part_of(number, one) for number, one in enumerate(stack, 1)]
    labels = [part.label for part in parts]
    for part in parts:
        if labels.count(part.label) > 1:
            other = f"{{LABEL: {{name: {part.method}, ...}}}}"
            raise ValueError(f"{part.label} is there twice; give one of them another label: {other}")
    return parts


def check_parts(stack: Any) -> Any:
    """The stack, after a check of its members' names and of the names and types of their fields. Raises ValueError."""
    for part in parts_of(stack):
        with labelled(part.label):
            if part.built is None:
                checked_params(part.cls, part.params, open_counts="published" not in part.params)
    return stack


@contextlib.contextmanager
def labelled(label: str) -> Iterator[None]:
    """Puts a member's label before what its method refuses, unless the method's own name says it."""
    try:
        yield
    except ValueError as error:
        text = str(error) if str(error).startswith(f"{label}: ") else f"{label}: {error}"
        if isinstance(error, BudgetError):
            raise BudgetError(text, error.possible) from None
        raise ValueError(text) from None


def part_of(number: int, one: Any) -> Part:
    """A member, in any of the forms that `parts_of` reads; `number` is for messages. Imports nothing."""
    if isinstance(one, Member):
        return Part(one.label, one.method, vars(one.fields), one.fields)
    if isinstance(one, str):
        one = {one: None}
    label: Any = None
    if isinstance(one, Mapping) and set(one) == {"label", "method", "fields"}:  # as a checkpoint writes it
        label, method, params = one["label"], one["method"], one["fields"]
    elif isinstance(one, Mapping) and len(one) == 1:
        [(label, given)] = one.items()
        params = {} if given is None else given
        method = params.get("name", label) if isinstance(params, Mapping) else None
    if not isinstance(label, str) or not isinstance(method, str) or not isinstance(params, Mapping):
        raise ValueError(f"member {number} is not of the form METHOD: {{FIELDS}}: {shown(one)}")
    params = {key: value for key, value in params.items() if key != "name"}
    if NAME in (method, *params):
        raise ValueError(f"{label}: a stack in a stack; write its members into the outer one")
    if "budget" in params:
        raise ValueError(f"{label}: budget: it belongs to the whole stack; write it beside stack, with over: {label}")
    return Part(label, method, params)
