"""The lock on a results folder."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from evals.cli import main
from evals.store import lock
from evals.store.lock import locked
from hidrop.errors import UserError
from tests.evals.holding import held_elsewhere


def taken(folder: Path) -> bool:
    """Whether another thread cannot take the lock; the kernel treats it like another process."""
    found: list[bool] = []

    def attempt() -> None:
        try:
            with locked(folder):
                found.append(False)
        except UserError:
            found.append(True)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return found[0]


def test_blocks_on_one_folder_can_be_nested_and_the_outermost_frees_it(tmp_path: Path) -> None:
    with locked(tmp_path):
        with locked(tmp_path / "sub" / ".."):
            assert taken(tmp_path)
        assert taken(tmp_path) and lock.holder(tmp_path)
    assert not taken(tmp_path) and lock.holder(tmp_path) is None
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    assert not taken(tmp_path)


def test_a_process_that_was_killed_holds_nothing_whatever_it_left(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(f"process 1 on {socket.gethostname()}\n")
    assert lock.holder(tmp_path) is None
    with held_elsewhere(tmp_path):
        assert str(lock.holder(tmp_path)).startswith("process ")


def test_patience_waits_for_another_process(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path), pytest.raises(UserError, match="in use by process"), locked(tmp_path):
        pass
    with held_elsewhere(tmp_path, seconds=0.1), locked(tmp_path, patience=30):
        pass


def without_locks(number: int) -> Callable[[int, int], None]:
    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    return unsupported


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_said_with_the_way_out(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fcntl, "flock", without_locks(number))
    with pytest.raises(UserError, match=r"has no file locks \(.*--out with a folder on a local disk"), locked(tmp_path):
        pass
    assert main(["report", str(tmp_path)]) == 2
    assert "its file system has no file locks" in capsys.readouterr().err


def test_a_lock_that_is_a_link_or_a_pipe_is_refused_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    makers: list[Callable[[Path], None]] = [lambda path: path.symlink_to(victim), os.mkfifo, os.mkdir]
    for number, make in enumerate(makers):
        folder = tmp_path / str(number)
        folder.mkdir()
        make(folder / ".lock")
        with pytest.raises(UserError, match=r"\.lock: not a plain file, .* Remove it"), locked(folder):
            pass
    assert victim.read_text() == "mine"


def test_a_full_disk_does_not_prevent_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with locked(tmp_path):
        assert taken(tmp_path)


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    left = [tmp_path / ".hidrop-0123456789abcdef.tmp", tmp_path / "samples/.hidrop-ffffffffffffffff.tmp"]
    others = [tmp_path / ".mine.tmp", tmp_path / ".hidrop-notes.tmp"]
    for path in [*left, *others]:
        path.write_text("x")
    with locked(tmp_path):
        assert not any(path.exists() for path in left) and all(path.exists() for path in others)
