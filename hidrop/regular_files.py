"""Reading files that may be anything: a folder, a pipe, a device or a dangling link gives words, and nothing waits.

Opening a FIFO for reading blocks until somebody writes to it, and reading /dev/zero never ends. Files of results,
matrices and configs are therefore opened here: a regular file is read up to a stated size, and nothing else is.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path

from hidrop.errors import UserError


class Unreadable(Exception):
    """Why a file cannot be read, in words without the file's name."""


def opened(path: Path) -> BufferedReader:
    """A regular file, opened for reading. Raises Unreadable, at once, for anything else."""
    try:
        # Without O_NONBLOCK the call itself waits for the other end of a pipe.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise Unreadable(error.strerror or type(error).__name__) from None
    except ValueError:  # a NUL byte or half a character in the name
        raise Unreadable("no file can have this name") from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise Unreadable("Is a directory" if stat.S_ISDIR(mode) else "it is a pipe or a device, not a regular file")
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The content of a regular file. Raises Unreadable for anything else, and for one of more than `most` bytes."""
    with opened(path) as file:
        try:
            content = file.read() if most is None else file.read(most + 1)
        except OSError as error:
            raise Unreadable(error.strerror or type(error).__name__) from None
    if most is not None and len(content) > most:
        raise Unreadable(f"it has more than {most:,} bytes")
    return content


def read_text(path: Path, most: int | None = None) -> str:
    """The text of a regular file in UTF-8. Raises Unreadable like `read_bytes`, and for other bytes."""
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError:
        raise Unreadable("not UTF-8 text") from None


def file_state(file: Path) -> tuple[int, ...]:
    """What changes when the content of a file does: size, times and number.

    A program can set the time of modification. The time of change and the number (of another file that took the name)
    are the system's own.
    """
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


def local_path(text: str, place: str) -> Path:
    """The path that a user wrote, with ~ resolved. Nothing has to be there.

    Raises UserError, with `place`, for a text that no file can have as its path.
    """
    try:
        path = Path(text).expanduser()
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except RuntimeError:
        raise UserError(
            f"{place}: no home folder is known for {Path(text).parts[0]!r}. Write the path in full"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds a character that no path can have"
        raise UserError(f"{place}: not a path: {reason}") from None
    return path


def opened_to_append(path: Path) -> FileIO:
    """A regular file, created if it is missing, opened for writing at its end, without a buffer.

    Raises UserError for a link, symbolic or hard, because what is written would be in another folder's file too; for
    anything but a file; OSError when the file cannot be written.
    """
    wanted = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, wanted, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{path}: a link to another file. Put a copy of that file in its place") from None
        raise
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return FileIO(handle, "ab")
    os.close(handle)
    if stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: the file has another name too (a hard link). Put a copy of it in its place")
    raise UserError(f"{path}: it is a pipe or a device, not a regular file. Move it away")


def own_folder(path: Path) -> Path:
    """`path`, a folder inside of a results folder. Raises UserError for a link: it could lead anywhere."""
    if path.is_symlink():
        raise UserError(f"{path}: a link to another folder. Results are written into their own folder: remove the link")
    return path
