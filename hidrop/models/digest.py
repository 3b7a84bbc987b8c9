"""Identity of a checkpoint: a hash over the content of its weight files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from hidrop.cache_folder import cache_folder


def digest(files: Iterable[Path]) -> str:
    """sha256, as hex, over the content of weight files and their names; their folder does not matter.

    Reading 13 GB takes a while, so the hash of each file is remembered (by path, size and time of change) in
    digests.json of the cache folder. Raises OSError when a file cannot be read.
    """
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.name):
        whole.update(f"{file.name} {_of_file(file)}\n".encode())
    return whole.hexdigest()


def _of_file(file: Path) -> str:
    stat = file.stat()
    # A Hub cache links names to blobs: the blob's own path is what stays the same.
    key = f"{file.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    known = _read()
    if key not in known:
        with file.open("rb") as stream:
            known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        _write(known)
    return known[key]


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
    with contextlib.suppress(OSError, RuntimeError):
        store = _store()
        store.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=store.parent, suffix=".tmp", delete=False) as stream:
            json.dump(known, stream, indent=0)
        os.replace(stream.name, store)
