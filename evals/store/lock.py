"""The lock on a results folder. A process that writes into the folder holds it.

Runs with --share hold it together, and each of them holds one more lock on the cell that it is running.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from evals.store import lock_owner
from hidrop.atomic_file import STALE
from hidrop.errors import CannotWrite, UserError

NAME = ".lock"
CELL = ".cell-{}.lock"  # the lock on one cell, with the first digits of its identity's hash
TABLES = ".tables.lock"  # held by the one of several runs with --share that writes the tables
SHARED = "runs with --share\n"  # the owners of a shared lock
# What file systems answer that have no locks (some NFS, FUSE and object stores).
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
PAUSE = 0.05  # seconds between two tries

# This process's locks by folder, name and thread, and whether they are shared: a nested block does not lock again.
_held: dict[tuple[int, int, str, int], bool] = {}


class InUse(UserError):
    """Another process has locked the folder."""


@contextlib.contextmanager
def locked(folder: Path, *, patience: float = 0.0, shared: bool = False, name: str = NAME) -> Iterator[None]:
    """Lock `folder`, which is created if missing, for the calling thread. Blocks on the same folder can be nested.

    patience: seconds to wait for another process. shared: other processes may hold it too, if theirs is shared as well.
    name: of the lock's file. Raises InUse, with the process and host, if another process keeps the lock; UserError if
    the folder cannot be locked at all. The kernel releases the lock of a process that died; the file names the owner
    (`lock_owner`). An owner that is alone in the folder removes the temporary files of writers that were killed.
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
            with _named(descriptor, folder, name, shared):
                yield
        finally:
            del _held[key]
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named(descriptor: int, folder: Path, name: str, shared: bool) -> Iterator[None]:
    """Write the owner into the lock's file for the block. Raises InUse if the file's owner lives on another machine."""
    others = not lock_owner.on_a_local_disk(folder)
    alone = name == NAME and not shared
    if others:
        watched = [folder / name, *(folder.glob(CELL.format("*")) if alone else ())]
        if owner := lock_owner.alive_elsewhere(watched):
            raise in_use(folder, f"{owner}, on whose machine this file system grants the same lock")
    lock_owner.write_owner(descriptor, SHARED if shared else f"{lock_owner.myself()}\n")
    if alone:
        _tidy(folder)
    try:
        with lock_owner.beating(descriptor) if others and not shared else contextlib.nullcontext():
            yield
    finally:
        if not shared or _alone(descriptor):
            lock_owner.write_owner(descriptor, "")


def in_use(folder: Path, owner: str) -> InUse:
    return InUse(f"{folder}: in use by {owner}. Wait for it, or use another --out")


def holder(folder: Path, name: str = NAME) -> str | None:
    """The process that holds the folder's lock; None if nobody does, whatever a killed one left in the lock's file."""
    import fcntl

    owner = lock_owner.owner_of(folder / name)
    if owner is None or not lock_owner.here(owner, folder):
        return owner
    try:
        descriptor = _opened(folder / name)
    except UserError:
        return owner
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return owner
    finally:
        os.close(descriptor)
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
    until = max(until, time.monotonic() + 2 * PAUSE)  # `holder` takes a free lock for a moment
    while True:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                owner = lock_owner.owner_of(path) or "another process"
                raise in_use(folder, owner) from None
            time.sleep(PAUSE)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise UserError(f"{folder}: cannot be locked ({error.strerror}). Use another --out") from None
            raise UserError(
                f"{folder}: its file system has no file locks ({error.strerror}), so two runs in it could not be kept "
                "apart. Use --out with a folder on a local disk and copy it afterwards, or mount the file system with "
                "locks (NFS: without the option nolock, or with local_lock=flock if only one machine works in it)"
            ) from None


def _alone(descriptor: int) -> bool:
    """Whether no other process holds a lock that this one shares. The lock may be lost: call this at its end."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _tidy(folder: Path) -> None:
    """Remove what killed writers left: the lock's owner is the only writer. Links to other folders are not followed.

    The locks on cells go too. Nobody holds or opens one: that takes a share in the folder's lock.
    """
    for pattern in (STALE, f"*/{STALE}", CELL.format("*")):
        for path in folder.glob(pattern):
            if path.parent == folder or not path.parent.is_symlink():
                with contextlib.suppress(OSError):
                    path.unlink()
