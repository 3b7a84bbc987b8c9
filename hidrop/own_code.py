"""A digest of hidrop's own code, for numbers that depend on all of it and not on a commit alone."""

from __future__ import annotations

import functools
import hashlib

from hidrop.remembered import ROOT, code_files


@functools.cache
def code_digest() -> str:
    """sha256, as hex, of the content of every Python file of hidrop, evals and baselines."""
    found = hashlib.sha256()
    for path in code_files():
        found.update(f"{path.relative_to(ROOT)}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()
