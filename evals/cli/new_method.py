"""The command for a method of one's own: new-method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from evals.cli.command import Group
from evals.cli.exit_codes import DONE
from evals.cli.options import Options, argument, option, written

COMMANDS = Group("Write a method")


@dataclass(frozen=True, kw_only=True)
class NewMethodOptions(Options):
    name: Annotated[str, argument("NAME", "The method's name: letters, digits and _, such as my_method.")]
    out: Annotated[Path, option("--out", "DIR", "Folder of the files (default: this one).")] = Path()


@COMMANDS.command("new-method", example="my_method --out my_methods/")
def new_method(options: NewMethodOptions) -> int:
    """Write a small method that works, and its test.

    NAME.py keeps the visual tokens with the most attention; change it into your method. test_NAME.py checks it on tiny
    random models of every family, against everything that hidrop asks of a method and a slow rule of a few lines.
    """
    from hidrop.testing.new_method import class_name, write_method

    paths = write_method(options.name, options.out)
    folder = "" if options.out == Path() else f"cd {options.out}\n   "
    entry = f'{options.name}: {{name: "./{options.name}.py:{class_name(options.name)}", budget: "11%"}}'
    options.say(written(*paths))
    options.say(
        "\nNext:\n"
        f"1. Run its tests (a minute):\n   {folder}pytest test_{options.name}.py\n"
        f"2. Change `score` and `schedule` in {options.name}.py, and the slow rule in test_{options.name}.py.\n"
        f"3. Compare it with other methods, in a matrix, from this folder:\n   methods:\n     {entry}"
    )
    options.document({"written": [str(path) for path in paths], "method": options.name, "entry": entry})
    return DONE
