"""Files that are replaced in one step: a reader sees the old file or the new one, also after a crash.

    write_atomically(Path("results/mini/leaderboard.md"), text)

The content goes to a temporary file in the same folder, is fsynced and renamed. Its name is random and it must not
exist yet (O_EXCL, O_NOFOLLOW), so nobody can prepare a link there that leads the writer to another file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hidrop.errors import CannotWrite

# What a killed writer leaves is called PREFIX + 16 hex digits + SUFFIX. The name is short for any name of the file.
PREFIX, SUFFIX = ".hidrop-", ".tmp"
STALE = f"{PREFIX}{'[0-9a-f]' * 16}{SUFFIX}"  # as a shell pattern


def make_folder(folder: Path) -> None:
    """Create a folder and those above it. Raises CannotWrite."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"{folder}: cannot be created ({error.strerror})") from None


def unwritable(folder: Path) -> str | None:
    """Why a folder cannot be made or written; None when it can."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{there} is a file, not a folder"
    try:
        with tempfile.TemporaryFile(dir=there):
            return None
    except OSError as error:
        return f"{there} cannot be written: {error.strerror}"


def unwritable_out(out: Path) -> list[str]:
    """A line on the folder of --out, if it cannot be created or written."""
    return [f"--out {out}: {problem}. Use another --out"] if (problem := unwritable(out)) else []


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file's content in one step. Raises CannotWrite like `replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` at the end of the block. If the block fails, `path` stays.

    Raises CannotWrite, with the reason, when the disk is full or the folder cannot be written. No temporary file stays.
    """
    temporary = path.with_name(f"{PREFIX}{secrets.token_hex(8)}{SUFFIX}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            with open(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise CannotWrite(
            f"{path}: cannot be written ({error.strerror or error}). The old file, if any, is kept"
        ) from error


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that the names of its files survive a crash of the machine. Some file systems cannot do it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
