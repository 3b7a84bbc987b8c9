"""JSON files of a known kind, checked when they are read, so that no other module has to check their fields.

    document = RESULTS.read(Path("results/mini/leaderboard.json"))     # a typed dict, or a UserError

A kind is a TypedDict and a schema number. A field that the TypedDict does not name is kept as it is: a later version
may add fields without raising the number, and this version reads such a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from evals.store.run_command import folder_of, run_command
from hidrop import strict_json
from hidrop.errors import UserError, shown
from hidrop.program import program
from hidrop.regular_files import Unreadable, read_text
from hidrop.strict_yaml import dotted

Content = TypeVar("Content")
MOST_BYTES = 1 << 28
MOST_DEPTH = 64
MOST_PROBLEMS = 3  # named in a message; a file with one odd cell mostly has many


@dataclass(frozen=True)
class FileKind(Generic[Content]):
    """A kind of JSON file.

    name: what messages call it, with its article. content: the TypedDict of what it holds.
    schema: the number that is written today; oldest: the smallest number that is still read.
    command: the command that writes such a file; None for a run of a matrix. then: what else to know about it.
    kind: the field "kind" of such a file; None for one without this field.
    complete: adds, in place, the fields that earlier files with a readable number lack.
    """

    name: str
    content: type[Content]
    schema: int
    oldest: int
    command: str | None
    then: str = ""
    kind: str | None = None
    complete: Callable[[dict[str, Any]], None] | None = None

    def remedy(self, place: str) -> str:
        """What a user can do about a file that cannot be read."""
        command = f"{program()} {self.command}" if self.command else run_command(folder_of(place))
        return f"`{command}` writes {'it; ' + self.then if self.then else 'one'}"

    def read(self, path: Path) -> Content:
        """The content of a file. Raises UserError, with the file, the field and the way out."""
        try:
            text = read_text(path, MOST_BYTES)
        except Unreadable as reason:
            raise UserError(f"{path}: cannot be read: {reason}. {self.remedy(str(path))}") from None
        return self.parsed(text, str(path))

    def parsed(self, text: str, place: str) -> Content:
        """The content of a file's text. Raises UserError like `read`; `place` names the file in its message."""
        try:
            strict_json.check_depth(text, MOST_DEPTH)
            data = strict_json.value(text)
        except ValueError as error:
            raise UserError(f"{place}: not JSON: {error}. {self.remedy(place)}") from None
        return self.checked(data, place)

    def checked(self, data: Any, place: str) -> Content:
        """`data` itself, if it is of this kind, with what an earlier version left out. Raises UserError like `read`."""
        if not isinstance(data, dict) or type(data.get("schema")) is not int:
            raise UserError(f"{place}: not {self.name}: it has no schema number. {self.remedy(place)}")
        if data.get("kind") != self.kind:
            raise UserError(
                f"{place}: not {self.name}, but a file of kind {shown(data.get('kind'))}. {self.remedy(place)}"
            )
        if data["schema"] > self.schema:
            raise UserError(
                f"{place}: {self.name} of a newer version (schema {data['schema']}, this version reads up to "
                f"{self.schema}). Update hidrop"
            )
        if data["schema"] < self.oldest:
            raise UserError(
                f"{place}: {self.name} of an older version (schema {data['schema']}, this version reads from "
                f"{self.oldest} on). {self.remedy(place)}"
            )
        try:
            if self.complete:
                self.complete(data)
            self._adapter.validate_python(data, strict=True)
        except ValidationError as error:
            raise UserError(f"{place}: not {self.name}: {problems(error)}. {self.remedy(place)}") from None
        return data  # type: ignore[return-value]  # the adapter has just checked it

    @cached_property
    def _adapter(self) -> TypeAdapter[Content]:
        return TypeAdapter(self.content)


def add(data: dict[str, Any], /, **fields: Any) -> None:
    """Add the fields that `data` lacks."""
    for name, value in fields.items():
        data.setdefault(name, value)


def entries(data: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects in a list of not yet checked data; none where it has no such list."""
    found = data.get(name)
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def problems(error: ValidationError) -> str:
    """What is wrong with checked data, by field, in one line."""
    lines = []
    for item in error.errors(include_url=False):
        place = dotted(item["loc"])
        message = f"{item['msg'][0].lower()}{item['msg'][1:]}, not {shown(item['input'])}"
        lines.append(f"{place} is missing" if item["type"] == "missing" else f"{place}: {message}")
    more = len(lines) - MOST_PROBLEMS
    return "; ".join(lines[:MOST_PROBLEMS]) + (f"; and {more} more problems" if more > 0 else "")
