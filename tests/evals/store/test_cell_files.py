"""The names of a run's files, and how a cell's journal is found."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from evals.store.cell_files import existing, finished, journal_of, place, readable, slug
from evals.store.journal import Journal, identity_hash
from tests.evals.store.test_journal import IDENTITY, answer, filled

ID = identity_hash(IDENTITY)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("mini/fastv-25%/gqa", "mini.fastv-25pct.gqa"),
        ("llava-1.5-7b/fastv/gqa", "llava-1.5-7b.fastv.gqa"),
        ("llava-1.5-7b/profile", "llava-1.5-7b.profile"),
        ("mini", "mini"),
    ],
)
def test_a_key_becomes_a_plain_file_name(key: str, name: str) -> None:
    assert slug(key) == readable(key) == name


def test_keys_that_look_alike_have_files_of_their_own() -> None:
    parts = ["a", "a%", "apct", "a.b", "b", "a-b", "a b", "ü", "ö", "a" * 300, "a" * 301, "漢" * 200, "漢" * 199, ".."]
    for count in (1, 2, 3):
        keys = ["/".join(names) for names in itertools.product(parts, repeat=count)]
        assert len({slug(key) for key in keys}) == len(keys)


@pytest.mark.parametrize("key", ["x" * 80 + "/" + "y" * 5000 + "/gqa", "漢" * 300 + "/ü/gqa", "../../x/y"])
def test_names_of_files_are_short_and_stay_in_their_folder(tmp_path: Path, key: str) -> None:
    path = place(tmp_path, key, ID)
    assert path.parent == tmp_path / "samples"
    assert len(f"{path.stem}.1000-of-1000.jsonl.damaged-1000".encode()) < 255
    assert len(f"{slug(key)}.json".encode()) < 255 and "/" not in slug(key)
    with Journal(path, IDENTITY) as log:
        log.append(answer(0))
    assert journal_of(tmp_path, key, ID) == path


def test_a_journal_is_found_under_any_label(tmp_path: Path) -> None:
    assert existing(tmp_path, ID) == [] and journal_of(tmp_path, "m/new/gqa", ID) == place(tmp_path, "m/new/gqa", ID)
    old = filled(place(tmp_path, "m/old/gqa", ID))
    assert journal_of(tmp_path, "m/new/gqa", ID) == old
    assert journal_of(tmp_path, "m/old/gqa", "0" * 64) == place(tmp_path, "m/old/gqa", "0" * 64)


def test_a_journal_whose_name_has_no_digits_is_found_by_its_header(tmp_path: Path) -> None:
    path = filled(tmp_path / "samples/my copy.jsonl")
    (tmp_path / "samples/no journal.jsonl").write_text("hello\n")
    (tmp_path / "samples/a folder.jsonl").mkdir()
    assert existing(tmp_path, ID) == [path]


def test_of_two_journals_of_a_cell_the_finished_one_counts(tmp_path: Path) -> None:
    own = filled(place(tmp_path, "m/own/gqa", ID), done=False)
    assert journal_of(tmp_path, "m/own/gqa", ID) == own
    other = filled(place(tmp_path, "m/z/gqa", ID))
    assert finished(other) and not finished(own)
    assert journal_of(tmp_path, "m/own/gqa", ID) == other
    filled(place(tmp_path, "m/a/gqa", ID), done=False)
    other.unlink()
    assert journal_of(tmp_path, "m/own/gqa", ID) == own


def test_parts_of_several_processes_are_found_under_another_label_too(tmp_path: Path) -> None:
    whole = place(tmp_path, "m/old/gqa", ID)
    with Journal(whole, IDENTITY, "0-of-2") as log:
        log.append(answer(0))
    assert not whole.exists()
    assert journal_of(tmp_path, "m/new/gqa", ID) == whole
    assert list(Journal(journal_of(tmp_path, "m/new/gqa", ID), IDENTITY).answers) == [0]
