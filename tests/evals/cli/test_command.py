"""From a dataclass of options to a command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from evals.cli.command import Group, unwrapped
from evals.cli.options import Options, argument, flag, option


@dataclass(frozen=True, kw_only=True)
class PaintOptions(Options):
    wall: Annotated[str, argument("WALL", "What to paint.")]
    coats: Annotated[int, option("--coats", "N", "How often.", min=1)] = 2
    dry: Annotated[bool, flag("--dry", "Wait.")] = False


def command() -> tuple[Group, list[PaintOptions]]:
    painted: list[PaintOptions] = []
    group = Group("Walls")

    @group.command("paint", example="north")
    def paint(options: PaintOptions) -> int:
        """Paint a wall.

        Over two
        lines.
        """
        painted.append(options)
        return 7

    return group, painted


def test_fields_are_options_and_the_action_waits_until_it_is_called() -> None:
    group, painted = command()
    made = typer.main.get_command(group.app)
    ready = made.main(["north", "--coats", "3", "--json"], standalone_mode=False)
    assert painted == []
    assert ready() == 7
    assert painted == [PaintOptions(wall="north", coats=3, json=True)]


def test_options_of_all_commands_come_last_and_the_docstring_is_the_help() -> None:
    made = typer.main.get_command(command()[0].app)
    assert [param.name for param in made.params][:5] == ["wall", "coats", "dry", "json", "quiet"]
    assert made.help == "Paint a wall.\n\nOver two lines." == unwrapped("Paint a\n wall.\n\n  Over two\n  lines.")
