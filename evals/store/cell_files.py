"""Where the journals of cells are: named after model, label and task for people, found by the cell's identity.

A journal's name ends with the first digits of its identity's hash. Labels change: a second budget splits the row
`fastv` in two, a model gets another name. The identity does not. The file is found by its digits and keeps its name.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evals.store.journal import header_of
from hidrop.errors import UserError

DIGITS = 12  # of the identity's hash, in a file name
DIGITS_AT_END = re.compile(rf"\.[0-9a-f]{{{DIGITS}}}$")
LONGEST = 120  # bytes of a file name's readable part: a name may have 255, and parts and repairs add to it
BLOCK = 1 << 16  # bytes
SUBMISSIONS = "submissions"  # the folder, in that of the results


def readable(key: str) -> str:
    """A cell's key as a part of a file name: "mini/fastv-25%/gqa" -> "mini.fastv-25pct.gqa". Keys may share it."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", key.replace("/", ".").replace("%", "pct"))[:LONGEST]


def slug(key: str) -> str:
    """A file name of its own for each key: `readable`, with a hash where another key could have the same name.

    Keys with another number of parts have files in other folders.
    """
    name, (_, *inner) = readable(key), key.split("/")
    plain = len(key) < LONGEST and "pct" not in key and not any("." in part for part in inner)
    if plain and not re.search(r"[^A-Za-z0-9._+%/-]", key):
        return name
    return f"{name}-{hashlib.sha256(key.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}"


def place(out: Path, key: str, id: str) -> Path:
    """The path for a new journal. key: "model/label/task". id: the cell's identity hash."""
    return out / "samples" / f"{readable(key)}.{id[:DIGITS]}.jsonl"


def submission_file(out: Path, key: str, id: str, name: str) -> Path:
    """The file `name` of a cell for its task's server: in a folder of its own, because a server may want the name."""
    return out / SUBMISSIONS / f"{readable(key)}.{id[:DIGITS]}" / name


def submitted(out: Path, id: str, name: str = "*") -> list[Path]:
    """The files called `name` (a glob) of a cell for its task's server or judge, whatever the cell was called."""
    return sorted((out / SUBMISSIONS).glob(f"*.{id[:DIGITS]}/{name}"))


def existing(out: Path, id: str) -> list[Path]:
    """The journals of a cell, whatever they are called, a finished one first.

    Also those of which only the files of several processes exist, in parts/.
    """
    samples, digits = out / "samples", f".{id[:DIGITS]}"
    stems = [stem for stem in _stems(samples) if stem.endswith(digits) or _has_header(samples, stem, id)]
    stems += [stem for stem in map(_of_part, _stems(samples / "parts")) if stem.endswith(digits)]
    paths = [samples / f"{stem}.jsonl" for stem in dict.fromkeys(stems)]
    return sorted((path for path in paths if not path.is_dir()), key=lambda path: not finished(path))


def headers(out: Path) -> Iterator[tuple[dict[str, Any], bool]]:
    """The identity of each journal in `out`, and whether it is finished; those of parts as well.

    Files that cannot be read are left out: `doctor` reports them.
    """
    for folder in (out / "samples", out / "samples" / "parts"):
        for stem in _stems(folder):
            path = folder / f"{stem}.jsonl"
            try:
                yield header_of(path)["identity"], finished(path)
            except (UserError, OSError):
                continue


def journal_of(out: Path, key: str, id: str) -> Path:
    """The journal of a cell: the existing one, or else the path for a new one."""
    own, found = place(out, key, id), existing(out, id)
    if own in found and not finished(found[0]):
        return own
    return found[0] if found else own


def _stems(folder: Path) -> list[str]:
    """The names of a folder's journals without their suffix; none if there is no folder."""
    try:
        return sorted(name.removesuffix(".jsonl") for name in os.listdir(folder) if name.endswith(".jsonl"))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _of_part(stem: str) -> str:
    """The name of a journal in that of one of its parts: "cell.id.0-of-2" -> "cell.id"."""
    return stem.rpartition(".")[0]


def _has_header(samples: Path, stem: str, id: str) -> bool:
    """Whether a journal without digits in its name is a cell's, by its first line."""
    if DIGITS_AT_END.search(stem):
        return False
    path = samples / f"{stem}.jsonl"
    try:
        return path.is_file() and header_of(path)["id"] == id
    except (UserError, OSError):
        return False


def finished(path: Path) -> bool:
    """Whether a journal's last whole line is its result. Only the end of the file is read; False without a file."""
    return result_line(path) is not None


def result_line(path: Path) -> bytes | None:
    """A journal's last whole line if it is its result, else None, also without a file."""
    line = last_line(path) if path.is_file() else b""
    return line if b'"kind":"result"' in line else None


def last_line(path: Path) -> bytes:
    """The last line of a file that ends with a line break, however long the line is; what follows it was torn off.

    Read backwards in blocks, so that a long file costs no more than its last line.
    """
    with path.open("rb") as file:
        start, found = file.seek(0, os.SEEK_END), b""
        while start and found.count(b"\n") < 2:
            size = min(BLOCK, start)
            start -= size
            file.seek(start)
            found = file.read(size) + found
    *whole, _torn = found.split(b"\n")
    return whole[-1] if whole else b""
