"""The packages that are installed with hidrop, told from others of the same names.

`evals` and `baselines` are names of other projects, too. Whoever has one of those on the path gets an error that says
so, instead of a module that is missing.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hidrop.errors import UserError

PACKAGES = ("evals", "baselines")
# The first line of each package's __init__.py.
MARK = "# part of hidrop"


def check_own_packages() -> None:
    """Raises UserError when `evals` or `baselines`, as Python finds them, are missing or another project's."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin) if spec and spec.origin else None
        if origin is None:
            root = Path(__file__).parents[1]
            raise UserError(
                f"package '{name}' is missing: it is installed with hidrop, in {root}. Install hidrop again"
            )
        if not origin.read_text(encoding="utf-8", errors="replace").startswith(MARK):
            way = "Install hidrop into an environment without it, or run from a checkout"
            raise UserError(f"package '{name}' in {origin.parent} belongs to another project. {way}")
