"""The Typer app: all groups of commands, `--version`, shell completion, and usage errors in words."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from evals.cli import ablations, analysis, bench, folders, methods, new_method, report, reproduction, run, tasks, train
from evals.cli.command import Commands, Ready, as_flag, unwrapped
from evals.cli.exit_codes import DONE
from evals.cli.options import BUNDLED, option
from hidrop.errors import UserError
from hidrop.program import program

GROUPS = (
    run.COMMANDS,
    methods.COMMANDS,
    tasks.COMMANDS,
    bench.COMMANDS,
    analysis.COMMANDS,
    ablations.COMMANDS,
    train.COMMANDS,
    new_method.COMMANDS,
    report.COMMANDS,
    folders.COMMANDS,
    reproduction.COMMANDS,
)
COMPLETION = ("--install-completion", "--show-completion")
HELP = f"""
    Compare visual-token reduction methods on one runtime: accuracy, FLOPs, memory, latency.

    `{program()} --matrix MATRIX` is short for `{program()} run MATRIX`. MATRIX is a file, or a bundled matrix:
    {", ".join(BUNDLED)}.
"""


def show_version(asked: bool) -> None:
    if asked:
        try:
            version = importlib.metadata.version("hidrop")
        except importlib.metadata.PackageNotFoundError:
            version = "of this checkout, which is not installed"
        print(f"hidrop {version}")
        raise typer.Exit(DONE)


def top(
    version: Annotated[
        bool, option("--version", "", "Print the version and exit.", callback=show_version, is_eager=True)
    ] = False,
) -> None: ...


def build() -> Any:
    """The command that Typer makes of all groups."""
    app = typer.Typer(
        cls=Commands, help=unwrapped(HELP), callback=top, context_settings={"help_option_names": ["-h", "--help"]}
    )
    for group in GROUPS:
        app.add_typer(group.app)
    command = typer.main.get_command(app)
    for param in command.params:
        if param.opts[0] in COMPLETION:
            as_flag(param)
    return command


def parse(argv: list[str]) -> Ready:
    """Parse a command line. Returns the command, ready to run; `--help` and `--version` are done already.

    Raises UserError for a command line with a mistake.
    """
    # Shells complete the name of a command, and run.py is an argument of `python`.
    name = "hidrop" if argv[0] in COMPLETION else program()
    command = build()
    try:
        found = command.main(argv, prog_name=name, standalone_mode=False)
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # Typer's own answer to `--help | head` is to exit with 1
            raise error.__context__ from None
        raise
    except typer.TyperException as error:
        known = argv[0] in command.commands
        place = f"{name} {argv[0]}" if known else name
        if not known and is_matrix(argv[0]):
            raise UserError(f"{place}: no such command '{argv[0]}'. `{place} run {argv[0]}` runs the matrix") from None
        raise UserError(f"{place}: {explained(error)}\n`{place} --help` lists what it takes") from None
    return found if callable(found) else lambda: DONE


def explained(error: typer.TyperException) -> str:
    """What is wrong with a command line, and the nearest option for an unknown one."""
    if near := getattr(error, "possibilities", None):
        return f"no such option: {error.option_name}. Did you mean '{near[0]}'?"  # type: ignore[attr-defined]
    message = error.format_message().replace("Value error, ", "").removesuffix(".")
    return message[:1].lower() + message[1:]


def is_matrix(word: str) -> bool:
    """Whether a user who forgot the command means a matrix."""
    return Path(word).is_file() or word.removesuffix(".yaml") in BUNDLED
