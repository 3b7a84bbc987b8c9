"""Write the files of a new method that lives outside of hidrop: a small one that works, and its test."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path

from hidrop.atomic_file import make_folder, write_atomically
from hidrop.errors import UserError, shown
from hidrop.methods import METHODS

TEMPLATES = Path(__file__).parent / "templates"
LONGEST = 60  # characters of a name


def class_name(name: str) -> str:
    """my_method becomes MyMethod; a name that the method's file imports gets Method behind it."""
    made = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    imported = re.findall(
        r"\b[A-Z]\w+", "\n".join(re.findall(r"^ *(?:from|import) .*$", _template("method"), re.MULTILINE))
    )
    return f"{made}Method" if made in imported else made


def write_method(name: str, folder: Path) -> tuple[Path, Path]:
    """Write NAME.py and test_NAME.py. Raises UserError for a name that cannot be one, and for files that are there."""
    check_name(name)
    paths = folder / f"{name}.py", folder / f"test_{name}.py"
    if there := [str(path) for path in paths if path.exists() or path.is_symlink()]:
        raise UserError(f"{', '.join(there)}: exists already. Choose another name, or another folder with --out")
    if importlib.util.find_spec(name) is not None:
        raise UserError(f"{name}: Python has a module of this name, which the new file would hide. Choose another name")
    make_folder(folder)
    for path, template in zip(paths, ("method", "test"), strict=True):
        text = _template(template).replace("CLASS", class_name(name)).replace("NAME", name)
        write_atomically(path, text)
    return paths


def check_name(name: str) -> None:
    """Raises UserError for a name that is no module's, or that is one of hidrop's methods."""
    if name in METHODS:
        raise UserError(f"{name}: hidrop has a method of this name. Choose another one")
    if keyword.iskeyword(name):
        raise UserError(f"{name}: a word of Python's own. Choose another name")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or len(name) > LONGEST:
        raise UserError(
            f"{shown(name)}: a name has letters, digits and _, starts with a letter, and has at most {LONGEST} "
            "characters, such as my_method"
        )


def _template(name: str) -> str:
    return (TEMPLATES / f"{name}.txt").read_text(encoding="utf-8")
