"""Identity of a checkpoint: a hash over the content of its weight files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path

from hidrop.atomic_file import make_folder, write_atomically
from hidrop.cache_folder import cache_folder
from hidrop.errors import CannotWrite
from hidrop.regular_files import file_state

# Seconds. A file that has just changed may change again within one tick of the file system's clock, so it is not
# remembered yet.
SETTLED = 2.0


def digest(files: Iterable[Path]) -> str:
    """sha256, as hex, over the content of weight files and their names; their folder does not matter.

    Reading 13 GB takes a while, so the hash of each file is remembered in digests.json of the cache folder, by path and
    by its size, times and number. Raises OSError when a file cannot be read.
    """
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.name):
        whole.update(f"{file.name} {_of_file(file)}\n".encode())
    return whole.hexdigest()


def _of_file(file: Path) -> str:
    # A Hub cache links names to blobs: the blob's own path is what stays the same.
    place, state, known = f"{file.resolve()}|", file_state(file), _read()
    key = place + "|".join(map(str, state))
    if key in known:
        return known[key]
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    _, modified, changed, *_ = state
    if file_state(file) == state and time.time() - max(modified, changed) / 1e9 > SETTLED:
        _write({other: hash for other, hash in known.items() if not other.startswith(place)} | {key: found})
    return found


def _store() -> Path:
    return cache_folder() / "digests.json"


def _read() -> dict[str, str]:
    try:
        known = json.loads(_store().read_text())
    except (OSError, RuntimeError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write(known: dict[str, str]) -> None:
    """Replace the store in one step. A home that cannot be written only costs time, so it is not an error."""
    with contextlib.suppress(CannotWrite, RuntimeError):
        store = _store()
        make_folder(store.parent)
        write_atomically(store, json.dumps(known, indent=0))
