"""Small results that take seconds to find out, kept in the cache folder under everything that they follow from.

    of = {"config": content}
    if (sizes := recall("sizes", of)) is None:
        remember("sizes", of, sizes := slow())

The key covers `of`, hidrop's own code, Python and all installed packages. So nothing has to be deleted after an update,
and a wrong result of an earlier version does not come back. Only results are kept, never problems: whoever finds a
problem looks again the next time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hidrop.atomic_file import make_folder, write_atomically
from hidrop.cache_folder import cache_folder
from hidrop.errors import CannotWrite
from hidrop.regular_files import file_state

ROOT = Path(__file__).parents[1]
CODE = ("hidrop", "evals", "baselines")
MOST = 1000  # results of a kind that are kept: the newest
# Seconds. A file that has just changed may change again within one tick of the file system's clock, so nothing that
# follows from it is remembered yet.
SETTLED = 2.0


def recall(kind: str, of: Any) -> Any | None:
    """What was remembered of `of` (JSON types); None if nothing was."""
    return read_store(_file(kind)).get(_key(of))


def remember(kind: str, of: Any, value: Any) -> None:
    """Keep `value` (JSON types, not None) for later processes."""
    known, key = read_store(_file(kind)), _key(of)
    known.pop(key, None)
    write_store(_file(kind), dict([*known.items(), (key, value)][-MOST:]))


def states(files: Iterable[Path]) -> list[tuple[str, tuple[int, ...]]] | None:
    """Paths and states (`file_state`) of files, for `of`; None if one has just changed. Raises OSError."""
    # The Hub's cache links names to blobs: the blob's own path is what stays the same.
    found = [(str(file.resolve()), file_state(file)) for file in files]
    return found if all(settled(state) for _, state in found) else None


def settled(state: tuple[int, ...]) -> bool:
    """Whether a file with this state has not just changed."""
    _, modified, changed, *_ = state
    return time.time() - max(modified, changed) / 1e9 > SETTLED


def read_store(file: Path) -> dict[str, Any]:
    """The content of a file in the cache folder; empty if it is missing or broken."""
    try:
        known = json.loads(file.read_text())
    except (OSError, RuntimeError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def write_store(file: Path, known: dict[str, Any]) -> None:
    """Replace the file in one step. A home that cannot be written only costs time, so it is not an error."""
    with contextlib.suppress(CannotWrite, RuntimeError):
        make_folder(file.parent)
        write_atomically(file, json.dumps(known, indent=0))


def _file(kind: str) -> Path:
    return cache_folder() / f"{kind}.json"


def _key(of: Any) -> str:
    return hashlib.sha256(json.dumps([of, _code(), _packages()], sort_keys=True).encode()).hexdigest()


def code_files() -> list[Path]:
    """Every Python file of hidrop's own code, sorted."""
    return sorted(file for name in CODE for file in (ROOT / name).rglob("*.py"))


@functools.cache
def _code() -> str:
    """Changes when a file of hidrop does."""
    found = [(str(file.relative_to(ROOT)), file_state(file)) for file in code_files()]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


@functools.cache
def _packages() -> list[str]:
    """Python, and the name and version of every installed package, in the order in which they are found."""
    return [platform.python_version(), *(name for place in sys.path for name in sorted(_installed(place)))]


def _installed(place: str) -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from (name for name in os.listdir(place or ".") if name.endswith((".dist-info", ".egg-info")))
