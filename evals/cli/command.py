"""From a function that takes a dataclass of options to a command of Typer's."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from hidrop.program import program

Action = TypeVar("Action", bound=Callable[[Any], int])
# A parsed command line: the action with its options, ready to run.
Ready = Callable[[], int]


def as_flag(option: Any) -> None:
    """Make one of Typer's own options like ours: shown without a value, and False where it is not given.

    Typer's default is None, and reading that imports pydantic even for `--help`.
    """
    option.metavar, option.default = "", False


class HelpFlag:
    """Mixed into a class of Typer's: `--help` as a flag."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            as_flag(option)
        return option


class Command(HelpFlag, TyperCommand):
    """One command."""


class Commands(HelpFlag, TyperGroup):
    """All commands, in the order in which they were added."""


class Group:
    """The commands of one file. `--help` lists them in one panel."""

    def __init__(self, panel: str) -> None:
        self.panel = panel
        self.app = typer.Typer()

    def command(self, name: str, *, example: str) -> Callable[[Action], Action]:
        """Register a function `(options: SomeDataclass) -> int`. Its docstring is the help."""

        def register(action: Action) -> Action:
            self.app.command(
                name,
                cls=Command,
                rich_help_panel=self.panel,
                help=unwrapped(action.__doc__ or ""),
                epilog=f"Example: {program()} {name} {example}".rstrip(),
            )(parsing(action))
            return action

        return register


def unwrapped(text: str) -> str:
    """A docstring with one line for each paragraph, which the terminal wraps to its own width."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def parsing(action: Callable[[Any], int]) -> Callable[..., Ready]:
    """The function that Typer calls: its parameters are the fields of the action's dataclass.

    It returns the action ready to run, so that errors of the action never pass through Typer.
    """
    options = get_type_hints(action)["options"]

    def parsed(**values: Any) -> Ready:
        return functools.partial(action, options(**values))

    hints = get_type_hints(options, include_extras=True)
    # The help lists a command's own options first, and those of all commands last.
    own_first = [
        field for base in options.__mro__ for field in fields(options) if field.name in inspect.get_annotations(base)
    ]
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in own_first
    ]
    vars(parsed)["__signature__"] = inspect.Signature(parameters)
    return parsed
