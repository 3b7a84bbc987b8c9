"""The owner of a lock, as the lock's file names it, and whether one on another machine is alive.

The kernel keeps two processes of one machine apart. Between machines that depends on the file system: NFS (by default),
Lustre (`flock`), GPFS and CephFS pass locks on; NFS with `local_lock`, Lustre with `localflock`, BeeGFS by default and
sshfs grant the same lock once on each machine. So on a file system that is not a local disk an owner counts its beats
in the lock's file, and whoever gets a lock that names a process of another machine first watches the file for a while.
Two that start within a moment of each other are not told apart in this way, nor are machines with the same name.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from hidrop.regular_files import Unreadable, read_text

BEAT, WATCH = 10.0, 45.0  # seconds between two beats, and to watch for one
LONGEST = 1 << 16  # bytes of a lock's file
MOUNTS = Path("/proc/self/mountinfo")
# File systems of one machine, whose locks are the kernel's own.
LOCAL = ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs")


def myself() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def owner_of(path: Path) -> str | None:
    """The owner that a lock's file names; None without one."""
    return next(iter(_content(path).splitlines()), "").strip() or None


def _content(path: Path) -> str:
    try:
        return read_text(path, LONGEST)
    except Unreadable:
        return ""


def on_a_local_disk(folder: Path) -> bool:
    """Whether all processes that see this folder are on one machine. False if that is not known."""
    try:
        lines = MOUNTS.read_text(errors="replace").splitlines()
        place = folder.resolve()
    except OSError:
        return False
    depth, kind = 0, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4]))
        if place.is_relative_to(mount) and len(mount.parts) >= depth:  # of two at one place, the later one is on top
            depth, kind = len(mount.parts), after.split(" ")[0]
    return kind in LOCAL


def here(owner: str, folder: Path) -> bool:
    """Whether this machine's kernel knows if an owner of a lock in the folder is alive."""
    return owner.endswith(f" on {socket.gethostname()}") or on_a_local_disk(folder)


def write_owner(descriptor: int, text: str) -> None:
    """Write the owner into a lock's file. The lock does not depend on it: a full disk is not an error."""
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def alive_elsewhere(paths: Iterable[Path]) -> str | None:
    """The owner of one of these locks, if it is on another machine and alive. Watches them for WATCH seconds."""
    here = f" on {socket.gethostname()}"
    named = {path: owner for path in paths if (owner := owner_of(path)) and owner.startswith("process ")}
    before = {path: _content(path) for path, owner in named.items() if not owner.endswith(here)}
    until = time.monotonic() + WATCH
    while before and time.monotonic() < until:
        time.sleep(BEAT / 5)
        for path, text in before.items():
            if (now := _content(path)) != text and now:
                return now.splitlines()[0]
    return None


@contextlib.contextmanager
def beating(descriptor: int) -> Iterator[None]:
    """Count beats in the second line of a lock's file during the block."""
    done = threading.Event()

    def beat() -> None:
        count = 0
        while not done.wait(BEAT):
            count += 1
            with contextlib.suppress(OSError):
                os.pwrite(descriptor, f"{myself()}\nbeat {count}\n".encode(), 0)
                os.fsync(descriptor)  # so that other machines see it

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
