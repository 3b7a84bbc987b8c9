"""The doc_ids of all samples that a row lost or gained: how the page has them, and from where."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.report import flip_lists, page
from evals.report.flip_lists import NO_ROOM, NO_VANILLA, lists_of, packed, unpacked, within
from evals.report.several import runs_of
from evals.store import sample_table
from evals.store.folders import read_document, samples_of
from evals.store.result_document import cell_key


def data_text(text: str) -> str:
    found = page.DATA.search(text)
    assert found
    return found[1]


def data_of(text: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(data_text(text))
    return data


@given(st.sets(st.integers(0, 300_000)))
def test_a_list_comes_back(docs: set[int]) -> None:
    assert list(unpacked(packed(sorted(docs)))) == sorted(docs)


def test_most_gaps_are_one_letter() -> None:
    assert packed([0, 1, 33, 66]) == "AAfgB", "gaps of 0, 0 and 31, and 32 in two letters, the lower first"
    assert len(packed(range(0, 300_000, 10))) == 30_000


def test_lists_are_of_lost_and_gained_alone() -> None:
    kinds = {"a/b/gqa": {5: "lost", 1: "lost", 2: "gained", 3: "changed", 4: "same"}, "a/c/gqa": {1: "uncompared"}}
    assert lists_of(kinds) == {"a/b/gqa": [packed([1, 5]), packed([2])], "a/c/gqa": NO_VANILLA}


def test_without_room_the_longest_lists_are_left_out() -> None:
    lists: flip_lists.Lists = {"a/b/gqa": ["AAAA", "A"], "a/b/pope": ["AA", ""], "a/c/gqa": NO_VANILLA}
    assert within(lists, 100) == lists
    assert within(lists, 4) == {**lists, "a/b/gqa": NO_ROOM}
    assert within(lists, 1) == {**lists, "a/b/gqa": NO_ROOM, "a/b/pope": NO_ROOM}


def flipped(little: Path) -> dict[str, list[list[int]]]:
    """By cell: the doc_ids that its journal and vanilla's give."""
    document, found = read_document(little), {}
    scores = {
        cell_key(cell): {row["doc_id"]: row["score"] or 0 for row in samples_of(little, cell) or ()}
        for cell in document["cells"]
    }
    for cell in document["cells"]:
        own, base = scores[cell_key(cell)], scores[str(cell["base"])]
        lost = [doc for doc in own if own[doc] < 0.5 <= base[doc]]
        found[cell_key(cell)] = [lost, [doc for doc in own if base[doc] < 0.5 <= own[doc]]]
    return found


def shown(text: str) -> dict[str, list[list[int]]]:
    return {key: [list(unpacked(one)) for one in lists] for key, lists in data_of(text)["flips"].items()}


def test_the_page_lists_all_flips_of_every_row_and_keeps_them(little: Path, tmp_path: Path) -> None:
    document, wanted = read_document(little), flipped(little)
    assert any(lost for lost, _ in wanted.values())
    written = page.write(document, little, samples=2, out=tmp_path)
    assert shown(written.read_text()) == wanted, "of all samples, not of the two that are shown"
    assert shown(page.html(document, tmp_path)) == wanted, "the page before has them, without journals"
    text = written.read_text()
    older = {name: value for name, value in data_of(text).items() if name != "flips"}
    written.write_text(text.replace(data_text(text), json.dumps(older)))
    kept = data_of(page.html(document, tmp_path))
    assert kept["tasks"] and set(kept["flips"].values()) == {flip_lists.OLDER}


def test_a_folder_without_journals_lists_the_flips_of_its_sample_table(little: Path, tmp_path: Path) -> None:
    document = read_document(little)
    assert data_of(page.html(document, tmp_path))["flips"] == {}
    sample_table.write(sample_table.rows_of(little, document), tmp_path / sample_table.NAME)
    assert shown(page.html(document, tmp_path)) == flipped(little)
    runs = runs_of([little, tmp_path], [document, document])
    both = shown(page.write_several(runs, tmp_path / "both", samples=1).read_text())
    assert both == {run.key(key): lists for run in runs for key, lists in flipped(little).items()}


def test_a_row_is_not_listed_without_vanillas_journal(little: Path, tmp_path: Path) -> None:
    shutil.copytree(little / "samples", tmp_path / "samples")
    next((tmp_path / "samples").glob("plain.vanilla.gqa.*")).unlink()
    flips = data_of(page.html(read_document(little), tmp_path, samples=1))["flips"]
    assert flips["plain/fastv/gqa"] == NO_VANILLA and isinstance(flips["plain/fastv/pope"], list)


@pytest.mark.parametrize("room", [0, 10**6])
def test_a_page_without_room_says_so(little: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(page, "LIST_BYTES", room)
    flips = data_of(page.html(read_document(little), little, samples=1))["flips"]
    assert (NO_ROOM in flips.values()) == (room == 0)
    assert re.fullmatch(r"[A-Za-z0-9+/]*", "".join(text for own in flips.values() if own != NO_ROOM for text in own))
