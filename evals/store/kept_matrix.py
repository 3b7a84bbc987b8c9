"""The matrix of a results folder: the file that its last run read, kept as samples/NAME.yaml next to the journals.

Cells run again from it after the file was edited or moved. It is in samples/ because that is where it is needed, and
because samples/ is not committed: a matrix may name folders of a machine. Relative paths in it are kept as they are,
from the folder where the run was started.
"""

from __future__ import annotations

from pathlib import Path

from hidrop.atomic_file import make_folder, write_atomically
from hidrop.regular_files import Unreadable, own_folder, read_text


def keep(folder: Path, name: str, text: str) -> None:
    """Keep the text of the matrix `name`. Raises UserError if samples/ is a link, and CannotWrite."""
    path = own_folder(folder / "samples") / f"{name}.yaml"
    try:
        if read_text(path) == text:
            return
    except Unreadable:
        pass
    make_folder(path.parent)
    write_atomically(path, text)


def kept(folder: Path, name: str | None = None) -> Path | None:
    """The kept matrix `name`; without a name, the only one there is. None if it is missing."""
    found = [path for path in (folder / "samples").glob("*.yaml") if name in (None, path.stem)]
    return found[0] if len(found) == 1 else None
