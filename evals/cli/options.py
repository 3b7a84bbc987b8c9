"""The options that commands share: how each is called, what it means, and what all commands do with it."""

from __future__ import annotations

import io
import json
import logging
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from hidrop.errors import UserError
from hidrop.numerics import ATTENTIONS
from hidrop.program import program
from hidrop.visible import visible, visible_json

if TYPE_CHECKING:
    from hidrop.geometry import Geometry


def option(name: str, metavar: str | None, text: str, *, panel: str | None = None, **more: Any) -> Any:
    """An option with a value. `metavar` None: the help lists the values it may have."""
    return typer.Option(name, metavar=metavar, help=text, rich_help_panel=panel, **more)


def flag(name: str, text: str, *, panel: str | None = None) -> Any:
    """An option without a value."""
    return option(name, "", text, panel=panel)


def argument(metavar: str, text: str) -> Any:
    return typer.Argument(metavar=metavar, help=text)


OUTPUT = "Output"
BUNDLED = ("smoke", "mini", "mini-full", "compositions", "paper", "paper-full", "baselines", "qwen", "video")

Json = Annotated[
    bool,
    flag("--json", "Print the result as one JSON document on stdout, and everything else on stderr.", panel=OUTPUT),
]
Quiet = Annotated[bool, flag("--quiet", "Print errors only, and with --json the document.", panel=OUTPUT)]
Device = Annotated[str, option("--device", "DEVICE", "auto, cpu, cuda, cuda:1 ...")]
Budget = Annotated[
    str, option("--budget", "N|N%", "Visual tokens per layer on average, as a number or as a share of the image's.")
]
Kernel = Annotated[str, option("--attention", "KERNEL", f"Attention: {', '.join(ATTENTIONS)}.")]
Workers = Annotated[int | None, option("--workers", "N", "Threads that load and prepare images.", min=0)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes."""

    json: Json = False
    quiet: Quiet = False

    @property
    def stream(self) -> TextIO:
        """Where text goes: with --json stdout belongs to the document, with --quiet text goes nowhere."""
        if self.quiet:
            return io.StringIO()
        return sys.stderr if self.json else sys.stdout

    def say(self, text: str) -> None:
        """Print a result or progress."""
        print(visible(text), file=self.stream, flush=True)

    def problem(self, text: str) -> None:
        """Print what is wrong: a result of commands that look for problems, and an error even with --quiet."""
        print(visible(text), file=sys.stderr if self.quiet else self.stream, flush=True)

    def loading(self, text: str) -> None:
        """Say what happens before the libraries are imported, which takes seconds. Stdout stays for results."""
        if not self.quiet:
            print(f"{visible(text)} ...", file=sys.stderr, flush=True)

    def show_log(self) -> None:
        """Print the log of a training, which is its progress, to stderr."""
        level = logging.ERROR if self.quiet else logging.INFO
        logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    def document(self, document: Mapping[str, Any]) -> None:
        """With --json, end stdout with the document. Each command calls this once."""
        if self.json:
            print(visible_json(json.dumps(document, ensure_ascii=False)), flush=True)


def written(*paths: Path) -> str:
    """The line that names the files a command has written."""
    return f"written: {', '.join(map(str, paths))}"


def command_line() -> str:
    """What the user typed, for documents."""
    return shlex.join([program(), *sys.argv[1:]])


def integers(option: str, text: str, example: str, *, least: int = 1) -> tuple[int, ...]:
    """The numbers of an option such as `--batch 1,4`. Raises UserError."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < least:
        raise UserError(f"{option} takes whole numbers of {least} or more, such as {example} (got {text})")
    return found


def check_writable(out: Path) -> None:
    """Raises UserError for a folder that cannot be created or written, before work that takes minutes or hours."""
    from hidrop.atomic_file import unwritable_out

    if problems := unwritable_out(out):
        raise UserError("\n".join(problems))


def average_tokens(budget: str, geometry: Geometry) -> float:
    """The value of --budget as a number of visual tokens. Raises UserError."""
    from hidrop.budget import budget_tokens, parse_budget

    try:
        return budget_tokens(parse_budget(budget), geometry.visual_tokens)
    except ValueError as error:
        raise UserError(f"--budget: {error}") from None
