"""The packages a matrix may need, and how to get one that is not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

COMMANDS = {
    "torch": "pip install torch",
    "transformers": "pip install 'transformers>=5.17,<6'",
    "datasets": "pip install datasets",
    "pyarrow": "pip install pyarrow",
    "pydantic": "pip install pydantic",
    "yaml": "pip install pyyaml",
    "rich": "pip install rich",
    "typer": "pip install 'typer>=0.28'",
    # Its own dependencies would bring in another torch.
    "lmms_eval": "pip install --no-deps lmms-eval==0.7.3",
}


def missing(name: str) -> str:
    """The error message for a package that is not installed."""
    return f"package {name} is not installed. Get it: {COMMANDS[name]}"


def lacking(names: Iterable[str]) -> list[str]:
    """The packages among `names` that cannot be imported."""
    return [name for name in names if importlib.util.find_spec(name) is None]
