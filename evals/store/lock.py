"""The lock on a results folder. A process that writes into the folder holds it.

Runs with --share hold it together, and each of them holds one more lock on the cell that it is running.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from hidrop.atomic_file import STALE
from hidrop.errors import CannotWrite, UserError
from hidrop.regular_files import Unreadable, read_text

NAME = ".lock"
CELL = ".cell-{}.lock"  # the lock on one cell, with the first digits of its identity's hash
TABLES = ".tables.lock"  # held by the one of several runs with --share that writes the tables
SHARED = "runs with --share\n"  # the owners of a shared lock
# What file systems answer that have no locks (some NFS, FUSE and object stores).
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
PAUSE = 0.05  # seconds between two tries
LONGEST = 1 << 16  # bytes of the owner's name

# This process's locks by folder, name and thread, and whether they are shared: a nested block does not lock again.
_held: dict[tuple[int, int, str, int], bool] = {}


class InUse(UserError):
    """Another process has locked the folder."""


@contextlib.contextmanager
def locked(folder: Path, *, patience: float = 0.0, shared: bool = False, name: str = NAME) -> Iterator[None]:
    """Lock `folder`, which is created if missing, for the calling thread. Blocks on the same folder can be nested.

    patience: seconds to wait for another process. shared: other processes may hold it too, if theirs is shared as well.
    name: of the lock's file. Raises InUse, with the process and host, if another process keeps the lock; UserError if
    the folder cannot be locked at all. The kernel releases the lock of a process that died; the file only names the
    owner. Temporary files of writers that were killed are removed by an owner that is alone in the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = folder.stat()
    except OSError as error:
        raise CannotWrite(f"{folder}: cannot be written ({error.strerror}). Choose another --out") from None
    key = place.st_dev, place.st_ino, name, threading.get_ident()
    if key in _held:
        assert shared or not _held[key], "a block inside of a shared one cannot have the folder for itself"
        yield
        return
    descriptor = _opened(folder / name)
    try:
        _lock(descriptor, folder / name, time.monotonic() + patience, shared)
        _held[key] = shared
        try:
            _name(descriptor, SHARED if shared else f"process {os.getpid()} on {socket.gethostname()}\n")
            if name == NAME and not shared:
                _tidy(folder)
            yield
        finally:
            del _held[key]
            if not shared or _alone(descriptor):
                _name(descriptor, "")
    finally:
        os.close(descriptor)


def holder(folder: Path, name: str = NAME) -> str | None:
    """The process that holds the folder's lock, as its file says; None if nobody does."""
    try:
        return read_text(folder / name, LONGEST).strip() or None
    except Unreadable:
        return None


def _opened(path: Path) -> int:
    """The lock's file. A link is not followed: writing the owner's name would overwrite the file that it leads to."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise UserError(f"{path}: not a plain file, so the folder cannot be locked. Remove it") from None
        raise CannotWrite(f"{path}: cannot be written ({error.strerror}). Choose another --out") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UserError(f"{path}: not a plain file, so the folder cannot be locked. Remove it")
    return descriptor


def _lock(descriptor: int, path: Path, until: float, shared: bool) -> None:
    import fcntl

    folder = path.parent
    while True:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                owner = holder(folder, path.name) or "another process"
                raise InUse(f"{folder}: in use by {owner}. Wait for it, or use another --out") from None
            time.sleep(PAUSE)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise UserError(f"{folder}: cannot be locked ({error.strerror}). Use another --out") from None
            raise UserError(
                f"{folder}: its file system has no file locks ({error.strerror}), so two runs in it could not be kept "
                "apart. Use --out with a folder on a local disk and copy it afterwards, or mount the file system with "
                "locks (NFS: the option local_lock=flock)"
            ) from None


def _alone(descriptor: int) -> bool:
    """Whether no other process holds a lock that this one shares. The lock may be lost: call this at its end."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _name(descriptor: int, owner: str) -> None:
    """Write the owner into the lock's file. The lock does not depend on it: a full disk is not an error."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)


def _tidy(folder: Path) -> None:
    """Remove what killed writers left: the lock's owner is the only writer. Links to other folders are not followed.

    The locks on cells go too. Nobody holds or opens one: that takes a share in the folder's lock.
    """
    for pattern in (STALE, f"*/{STALE}", CELL.format("*")):
        for path in folder.glob(pattern):
            if path.parent == folder or not path.parent.is_symlink():
                with contextlib.suppress(OSError):
                    path.unlink()
