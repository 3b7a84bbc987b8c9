"""`python -m evals.tasks export DIR [--data mini|FOLDER]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evals.tasks.data import MINI
from evals.tasks.export import export
from hidrop.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m evals.tasks", description="The tasks for lmms-eval")
    commands = parser.add_subparsers(required=True, metavar="command")
    command = commands.add_parser("export", help="write the tasks as YAML files for --include_path")
    command.add_argument("folder", type=Path)
    command.add_argument("--data", default=MINI, help="'mini' (default) or a folder with parquet files")
    options = parser.parse_args(arguments)
    try:
        names = export(options.folder, options.data)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"lmms-eval --model hidrop --include_path {options.folder} --tasks {','.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
