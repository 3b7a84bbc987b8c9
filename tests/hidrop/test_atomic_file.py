"""A file is replaced in one step, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from hidrop.atomic_file import make_folder, replacing, write_atomically
from hidrop.errors import CannotWrite


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    for content in ("one", "größer", b"\xff\x00"):
        write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
        assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    write_atomically(path, "old")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"half of ")
        raise RuntimeError
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_link_at_the_temporary_name_or_the_files_own_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "table.md"
    victim.write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda count: "guessed")
    (tmp_path / ".hidrop-guessed.tmp").symlink_to(victim)
    with pytest.raises(CannotWrite, match="File exists"):
        write_atomically(path, "theirs")
    assert (tmp_path / ".hidrop-guessed.tmp").is_symlink()
    monkeypatch.undo()
    path.symlink_to(victim)
    write_atomically(path, "theirs")
    assert victim.read_text() == "mine" and path.read_text() == "theirs" and not path.is_symlink()


def test_two_writers_use_two_temporary_files(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    with replacing(path) as first, replacing(path) as second:
        first.write(b"first")
        second.write(b"second")
        assert len(list(tmp_path.iterdir())) == 2
    assert path.read_text() == "first", "the outer block ends last"


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_full_disk_is_said_in_words_and_keeps_the_old_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.md"
    write_atomically(path, "old")

    def full(*arguments: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(CannotWrite, match=r"table\.md: cannot be written .No space left on device.*old file"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_folder_is_synced_after_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, kinds = os.fsync, []

    def fsync(descriptor: int) -> None:
        kinds.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "table.md", "x")
    assert kinds == [False, True]


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_atomically(path, "long")
    assert path.read_text() == "long"


def test_a_folder_that_cannot_be_made_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotWrite, match="cannot be created .Not a directory"):
        make_folder(tmp_path / "file" / "sub")
