"""Results that are kept for later processes, and what makes them forgotten."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hidrop import remembered
from hidrop.remembered import recall, remember, states

OF = {"config": {"layers": 2}}


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(remembered, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "sizes.json"


def test_a_result_comes_back_for_what_it_follows_from_and_its_kind_alone() -> None:
    assert recall("sizes", OF) is None
    remember("sizes", OF, {"layers": 2})
    assert recall("sizes", {"config": {"layers": 2}}) == {"layers": 2}
    assert recall("sizes", {"config": {"layers": 3}}) is None
    assert recall("checks", OF) is None


@pytest.mark.parametrize(("part", "other"), [("_code", "edited"), ("_packages", ["3.11", "transformers-5.24.0"])])
def test_other_code_and_other_packages_forget(part: str, other: object, monkeypatch: pytest.MonkeyPatch) -> None:
    remember("sizes", OF, 1)
    monkeypatch.setattr(remembered, part, lambda: other)
    assert recall("sizes", OF) is None


def test_the_code_is_every_module_and_an_edit_changes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "ROOT", tmp_path)
    module = tmp_path / "hidrop" / "deep" / "module.py"
    module.parent.mkdir(parents=True)
    found = []
    for text in ("a = 1", "a = 22"):
        module.write_text(text)
        remembered._code.cache_clear()
        found.append(remembered._code())
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "other.py").write_text("")
    remembered._code.cache_clear()
    assert len({*found, remembered._code()}) == 3
    remembered._code.cache_clear()


def test_packages_are_told_with_their_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "transformers-9.9.9.dist-info").mkdir()
    monkeypatch.setattr("sys.path", [str(tmp_path), str(tmp_path / "nowhere")])
    remembered._packages.cache_clear()
    assert remembered._packages()[1:] == ["transformers-9.9.9.dist-info"]
    remembered._packages.cache_clear()


def test_the_oldest_results_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "MOST", 2)
    for number in range(3):
        remember("sizes", number, number)
    assert [recall("sizes", number) for number in range(3)] == [None, 1, 2]


def test_files_that_have_just_changed_have_no_state_to_remember(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert states([file]) is None


def test_a_link_and_the_file_that_it_names_have_one_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "SETTLED", -1.0)
    (tmp_path / "blob").write_text("x")
    (tmp_path / "name").symlink_to("blob")
    before = states([tmp_path / "name"])
    assert before == states([tmp_path / "blob"])
    time.sleep(0.02)  # more than a tick of the file system's clock
    (tmp_path / "blob").write_text("y")
    os.utime(tmp_path / "blob", ns=(0, before[0][1][1]))  # type: ignore[index]
    assert states([tmp_path / "name"]) != before


@pytest.mark.parametrize("content", ["{", "[]", "\udcff"])
def test_a_broken_store_costs_only_time(content: str, store: Path) -> None:
    store.parent.mkdir()
    store.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert recall("sizes", OF) is None
    remember("sizes", OF, 1)
    assert recall("sizes", OF) == 1


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in its place")
    remember("sizes", OF, 1)
    assert recall("sizes", OF) is None
