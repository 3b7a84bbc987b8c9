"""The file of a task of lmms-eval, found without reading all of its files again."""

from __future__ import annotations

import pytest

from evals.tasks import index
from hidrop.remembered import recall, remember


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for each time that all files were looked through."""
    found, real = [], index.index
    monkeypatch.setattr(index, "index", lambda: found.append(1) or real())
    return found


OF = {"folder": str(index.tasks_folder())}


def test_a_tasks_file_is_that_of_the_index_and_all_files_are_looked_through_once(scans: list[int]) -> None:
    entries = index.index().entries
    names = ["gqa", "pope", "mmbench_en_dev", "ocrbench"]
    scans.clear()
    assert [index.path_of(name) for name in names] == [entries[name].path for name in names]
    assert len(scans) == 1


@pytest.mark.parametrize("wrong", ["pope/nowhere.yaml", "pope/pope.yaml", "pope/utils.py", 3, None])
def test_a_file_that_is_gone_or_is_another_tasks_is_looked_for_again(wrong: object, scans: list[int]) -> None:
    found = index.path_of("gqa")
    remember("tasks", OF, {**recall("tasks", OF), "gqa": wrong})  # type: ignore[dict-item]
    assert index.path_of("gqa") == found and len(scans) == 2


def test_an_unknown_name_is_looked_for_every_time(scans: list[int]) -> None:
    for count in (1, 2):
        with pytest.raises(KeyError):
            index.path_of("no_such_task")
        assert len(scans) == count
