"""A lock that a process of another machine holds, on file systems that do not pass locks on to other machines."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evals.store import lock, lock_owner
from evals.store.lock import CELL, InUse, locked
from tests.evals.holding import held_elsewhere

BEAT, WATCH = 0.05, 0.5


@pytest.fixture
def network_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A file system that grants every lock, as if each process had a machine of its own. network_disk(name): be it."""
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, operation: None)
    monkeypatch.setattr(lock_owner, "on_a_local_disk", lambda folder: False)
    monkeypatch.setattr(lock_owner, "BEAT", BEAT)
    monkeypatch.setattr(lock_owner, "WATCH", WATCH)
    return lambda name: monkeypatch.setattr(socket, "gethostname", lambda: name)


def seconds(folder: Path) -> float:
    """How long it takes to lock a folder."""
    started = time.monotonic()
    with locked(folder):
        return time.monotonic() - started


def test_a_lock_is_never_taken_from_a_living_process_of_another_machine(
    network_disk: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_owner, "myself", lambda: f"process {os.getpid()} on one")
    network_disk("two")
    with held_elsewhere(tmp_path):
        with pytest.raises(
            InUse, match=r"in use by process \d+ on one, on whose machine this file system grants the same"
        ):
            seconds(tmp_path)
        assert str(lock.holder(tmp_path)).endswith(" on one")
    assert seconds(tmp_path) < WATCH, "it was freed"


def test_a_run_on_another_machine_that_shares_the_folder_keeps_out_one_that_wants_it_for_itself(
    network_disk: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_owner, "myself", lambda: f"process {os.getpid()} on one")
    network_disk("two")
    with held_elsewhere(tmp_path, name=CELL.format("0123456789ab")), pytest.raises(InUse, match=r"process \d+ on one"):
        seconds(tmp_path)


def test_a_lock_of_a_dead_process_of_another_machine_is_taken_after_a_while(
    network_disk: Callable[[str], None], tmp_path: Path
) -> None:
    network_disk("two")
    (tmp_path / ".lock").write_text("process 7 on one\nbeat 12\n")
    assert seconds(tmp_path) >= WATCH
    (tmp_path / ".lock").write_text("process 7 on two\nbeat 12\n")
    assert seconds(tmp_path) < WATCH, "the kernel of this machine knows that it is dead"


def test_on_a_local_disk_the_kernel_is_asked_alone(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("process 7 on another-machine\nbeat 12\n")
    if not lock_owner.on_a_local_disk(tmp_path):
        pytest.skip("the folder for temporary files is not on a local disk")
    assert seconds(tmp_path) < lock_owner.WATCH / 2


MOUNTS = """21 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 21 0:50 / /shared rw,relatime shared:1 - nfs4 server:/export rw,vers=4.2,local_lock=none
23 22 0:51 / /shared/with\\040space rw - xfs /dev/vdb rw
24 21 0:52 / /gone rw - beegfs beegfs_nodev rw
25 24 0:53 / /gone rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("folder", "local"),
    [
        ("/data/results", True),
        ("/shared/results", False),
        ("/shared2", True),
        ("/shared/with space/results", True),
        ("/gone/results", True),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_deepest_mount(
    folder: str, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(lock_owner, "MOUNTS", mounts)
    assert lock_owner.on_a_local_disk(Path(folder)) is local
    monkeypatch.setattr(lock_owner, "MOUNTS", tmp_path / "none")
    assert not lock_owner.on_a_local_disk(Path(folder)), "not known"
