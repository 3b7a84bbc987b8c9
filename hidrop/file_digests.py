"""The hash of a large file's content, which is read once: digests.json in the cache folder keeps it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hidrop.cache_folder import cache_folder
from hidrop.regular_files import file_state, opened
from hidrop.remembered import read_store, settled, write_store


def file_digest(file: Path) -> str:
    """sha256, as hex, of a file's content.

    Reading 13 GB takes a while, so it is remembered by the file's path and by its size, times and number. Raises
    OSError for a file that is not there, Unreadable for one that cannot be read, and for a pipe or a device.
    """
    # A Hub cache links names to blobs: the blob's own path is what stays the same.
    place, state = f"{file.resolve()}|", file_state(file)
    store = cache_folder() / "digests.json"
    key, known = place + "|".join(map(str, state)), read_store(store)
    if key in known:
        return known[key]
    with opened(file) as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if file_state(file) == state and settled(state):
        write_store(store, {other: hash for other, hash in known.items() if not other.startswith(place)} | {key: found})
    return found
