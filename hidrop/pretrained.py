"""The one place that calls transformers' `from_pretrained`: files of a checkpoint are read, its code is never run.

Without `trust_remote_code=False` transformers asks on the terminal whether it may run the Python files that a
checkpoint's "auto_map" names.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from hidrop.checkpoint_files import read_object
from hidrop.errors import UserError


def pretrained(kind: Any, folder: Path | str | None, **settings: Any) -> Any:
    """`kind.from_pretrained(folder, trust_remote_code=False, ...)` of a class of transformers.

    A file that names code next to a class that transformers has is read with that class. Raises UserError, naming the
    file, for a checkpoint that cannot be read without its own code, and otherwise what transformers raises.
    """
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, **settings)
    except ValueError:
        if files := files_with_code(folder):
            raise UserError(
                f"{', '.join(files)}: auto_map names Python code of the checkpoint's own, and hidrop never runs it. "
                "Use a checkpoint that transformers can read with its own classes"
            ) from None
        raise


def files_with_code(folder: Path | str | None) -> list[str]:
    """The JSON files in a checkpoint's folder that ask for code of its own."""
    found = []
    for file in sorted(Path(folder).glob("*.json")) if folder is not None else ():
        with contextlib.suppress(UserError, FileNotFoundError):  # whoever reads the file reports it
            if read_object(file).get("auto_map"):
                found.append(str(file))
    return found
