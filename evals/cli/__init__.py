"""The command line: `main` runs one command. Each file holds one group of commands, and `app` puts them together.

A command is a function that takes one dataclass of options. Typer parses the command line into that dataclass, and
`main` calls the function. Heavy libraries are imported by the functions, never at the top of these files.
"""

from __future__ import annotations

import json
import os
import sys

from evals.cli.exit_codes import DONE, INTERRUPTED, USER
from evals.matrix import packages
from hidrop.errors import UserError
from hidrop.visible import visible, visible_json

# Options that belong to no command. Any other option in the first place belongs to `run`.
OWN_OPTIONS = ("-h", "--help", "--version", "--install-completion", "--show-completion")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: see `evals.cli.exit_codes`. `argv` defaults to the process's own."""
    given = sys.argv[1:] if argv is None else argv
    try:
        from evals.cli.app import parse

        if not given:
            parse(["--help"])
            return USER
        code = parse(with_command(given))()
        sys.stdout.flush()
        return code
    except UserError as error:
        return stopped(str(error), USER, given)
    except ModuleNotFoundError as error:
        if error.name not in packages.COMMANDS:
            raise
        return stopped(packages.missing(error.name), USER, given)
    except KeyboardInterrupt:
        return stopped("interrupted. Run the same command again to continue.", INTERRUPTED, given)
    except BrokenPipeError:  # `run.py plan paper | head`: nobody reads what Python would flush at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:  # a folder in the place of a file, a full disk, a path without permission
        return stopped(str(error) if error.filename is None else f"{error.filename}: {error.strerror}", USER, given)


def with_command(argv: list[str]) -> list[str]:
    """`--matrix mini` is short for `run --matrix mini`."""
    return ["run", *argv] if argv[0].startswith("-") and argv[0] not in OWN_OPTIONS else argv


def stopped(message: str, code: int, argv: list[str]) -> int:
    """Print why a command ended early, to stderr and with --json as a document on stdout. Returns the exit code."""
    print(visible(message), file=sys.stderr)
    if "--json" in argv:
        document = {"error": message, "problems": message.splitlines()}
        print(visible_json(json.dumps(document, ensure_ascii=False)), flush=True)
    return code
