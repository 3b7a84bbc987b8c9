"""The identity of weights."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from hidrop.models import digest


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are remembered at once, and not only when they are some seconds old."""
    monkeypatch.setattr("hidrop.remembered.SETTLED", -1.0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hidrop" / "digests.json"


def write(folder: Path, **content: str) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, text in content.items():
        (folder / name).write_text(text)
    return [folder / name for name in content]


def test_digest_follows_the_content_and_not_the_place(tmp_path: Path, store: Path) -> None:
    here, there = write(tmp_path / "a", x="1", y="2"), write(tmp_path / "b", x="1", y="2")
    assert digest(here) == digest(reversed(there))
    assert digest(here) != digest(write(tmp_path / "c", x="1", y="3"))
    assert digest(here) != digest(write(tmp_path / "d", x="2", y="1"))


def test_changed_file_gets_another_digest(tmp_path: Path, store: Path) -> None:
    files = write(tmp_path / "a", x="1")
    before = digest(files)
    (tmp_path / "a" / "x").write_text("longer")
    assert digest(files) != before


def replaced(file: Path, text: str, how: str) -> None:
    """Give a file another content of the same size and with the same time."""
    before = file.stat()
    assert len(text) == before.st_size
    if how == "in place":
        file.write_text(text)
    else:
        other = file.with_name("other")
        other.write_text(text)
        other.replace(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("how", ["in place", "by another file"])
def test_content_that_is_replaced_at_equal_size_and_time_is_noticed(tmp_path: Path, store: Path, how: str) -> None:
    files = write(tmp_path / "a", x="one")
    before = digest(files)
    assert store.exists()
    time.sleep(0.02)  # more than a tick of the file system's clock; without it: the next test
    replaced(files[0], "two", how)
    assert digest(files) != before
    assert len(json.loads(store.read_text())) == 1, "what was known of the file before is forgotten"


def test_a_file_that_has_just_changed_is_not_remembered(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hidrop.remembered.SETTLED", 60.0)
    files = write(tmp_path / "a", x="one")
    digests = [digest(files)]
    for text in ("two", "six", "ten"):
        replaced(files[0], text, "in place")
        digests.append(digest(files))
    assert len(set(digests)) == 4 and not store.exists()


def test_unchanged_file_is_read_once(tmp_path: Path, store: Path) -> None:
    files = write(tmp_path / "a", x="1")
    before = digest(files)
    known = json.loads(store.read_text())
    store.write_text(json.dumps({key: "remembered" for key in known}))
    assert digest(files) != before


@pytest.mark.parametrize("content", ["{", "[]"])
def test_broken_store_costs_only_time(tmp_path: Path, store: Path, content: str) -> None:
    files = write(tmp_path / "a", x="1")
    before = digest(files)
    store.write_text(content)
    assert digest(files) == before


def test_unwritable_home_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert digest(write(tmp_path / "a", x="1")) == digest(write(tmp_path / "b", x="1"))
