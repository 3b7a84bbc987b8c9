"""Identity of a checkpoint: a hash over the content of its weight files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from hidrop.errors import UserError
from hidrop.file_digests import file_digest
from hidrop.regular_files import Unreadable


def digest(files: Iterable[Path]) -> str:
    """sha256, as hex, over the content of weight files and their names; their folder does not matter.

    The hash of each file is remembered (`file_digest`). Raises OSError or UserError for a file that
    cannot be read.
    """
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda f: f.name):
        try:
            whole.update(f"{file.name} {file_digest(file)}\n".encode())
        except Unreadable as reason:
            raise UserError(f"{file}: cannot be read: {reason}") from None
    return whole.hexdigest()
