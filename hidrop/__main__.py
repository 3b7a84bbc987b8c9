"""`python -m hidrop`, and the installed command `hidrop`: the command line in evals/cli."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command, see `evals.cli.main`. Returns 2 when another project's `evals` or `baselines` is in the way."""
    from hidrop.errors import UserError
    from hidrop.own_packages import check_own_packages

    try:
        check_own_packages()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    from evals.cli import main as run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
