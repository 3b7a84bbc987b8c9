"""The identity of weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hidrop.models import digest


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
