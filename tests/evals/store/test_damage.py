"""Every kind of damage to a journal is found, and a repair drops only what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from evals.store import doctor
from evals.store.journal import Journal
from hidrop.errors import UserError
from tests.evals.store.flips import COUNT, IDENTITY, SESSION, flipped, silently_accepted, written
from tests.evals.world import ANSWER

# Lines of a finished journal: header, session, answers, scores, result.
FIRST_ANSWER, FIRST_SCORE, RESULT = 2, 2 + COUNT, 2 + 2 * COUNT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "samples").mkdir()
    return tmp_path / "samples" / "a.jsonl"


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def repaired(path: Path) -> Journal:
    """The journal after a repair. What the doctor finds, a run refuses."""
    with pytest.raises(UserError, match="doctor"):
        Journal(path, IDENTITY).check()
    (finding,) = doctor.examine(path.parents[1])
    finding.repair()
    assert doctor.examine(path.parents[1]) == []
    log = Journal(path, IDENTITY)
    log.check()
    return log


@pytest.mark.parametrize("flips", [150, pytest.param(6000, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_accepted(tmp_path: Path, flips: int) -> None:
    assert silently_accepted(tmp_path, flips, seed=flips) == []


def test_no_flip_of_the_last_lines_end_is_accepted(path: Path) -> None:
    """Without its line break the last line looks as if a crash had cut it off, and would be dropped without a word."""
    for done in (True, False):
        good = written(path, done=done)
        for bit in range(8):
            path.write_bytes(flipped(good, len(good) - 1, bit))
            with pytest.raises(UserError, match="last line"):
                Journal(path, IDENTITY)


def test_a_flipped_bit_costs_at_most_its_own_record(path: Path) -> None:
    good, generator = written(path), Random(1)
    lines = good.splitlines(keepends=True)
    for number in [0, 1, *generator.sample(range(FIRST_ANSWER, RESULT), 8), RESULT]:
        place = sum(map(len, lines[:number])) + generator.randrange(len(lines[number]))
        path.write_bytes(flipped(good, place, generator.randrange(8)))
        log = repaired(path)
        # A flip of a line's end, or one that makes a line's end, touches two lines.
        lost = 2 if FIRST_ANSWER <= number < FIRST_SCORE else 0
        assert len(log.answers) >= COUNT - lost
        assert log.answers == {i: a for i, a in answers().items() if i in log.answers}
        assert number not in (0, 1) or log.result is not None
    assert len(list(path.parent.glob("*.damaged*"))) == 11


def answers() -> dict[int, dict[str, object]]:
    batches = {i: i - i % 4 for i in range(COUNT)}
    return {i: {"kind": "answer", **ANSWER, "doc_id": i, "batch": batches[i], "answer": str(i)} for i in range(COUNT)}


def test_a_flipped_answer_is_dropped_and_the_records_after_it_are_kept(path: Path) -> None:
    good = written(path)
    place = good.index(b'"answer":"7"') + 10
    path.write_bytes(flipped(good, place, 0))
    log = repaired(path)
    assert sorted(log.answers) == [i for i in range(COUNT) if i != 7]
    assert log.result is None and log.provenance == [{"kind": "provenance", **SESSION}]


def swap(lines: list[bytes], a: int, b: int) -> list[bytes]:
    lines[a], lines[b] = lines[b], lines[a]
    return lines


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:5], lines[4], *lines[5:]],
        lambda lines: [*lines[:9], lines[4], *lines[9:]],
        lambda lines: [*lines[:RESULT], lines[RESULT - 1], lines[RESULT]],
        lambda lines: [*lines, lines[RESULT]],
        lambda lines: [*lines[:1], lines[1], lines[1], *lines[2:]],
        lambda lines: swap(lines, 4, 5),
        lambda lines: swap(lines, 4, 15),
        lambda lines: swap(lines, FIRST_SCORE, FIRST_SCORE + 3),
        lambda lines: swap(lines, 1, RESULT),
        lambda lines: [*lines[:FIRST_ANSWER], *reversed(lines[FIRST_ANSWER:])],
    ],
)
def test_a_repair_of_doubled_and_moved_lines_loses_nothing(
    path: Path, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    good = written(path)
    path.write_bytes(b"".join(change(lines_of(path))))
    assert repaired(path).result is not None
    assert path.read_bytes() == good


@pytest.mark.parametrize("number", [1, 2, FIRST_SCORE - 1, FIRST_SCORE, RESULT - 1])
def test_a_removed_line_is_noticed(path: Path, number: int) -> None:
    written(path)
    lines = lines_of(path)
    path.write_bytes(b"".join([*lines[:number], *lines[number + 1 :]]))
    log = repaired(path)
    assert len(log.answers) == COUNT - (FIRST_ANSWER <= number < FIRST_SCORE)
    assert (log.result is not None) == (number == 1)


@pytest.mark.parametrize("at", [2, 7, FIRST_SCORE, RESULT + 1])
def test_a_line_of_another_cell_is_dropped(path: Path, at: int) -> None:
    written(path, identity={**IDENTITY, "fields": {"keep": 65}})
    foreign = lines_of(path)[FIRST_ANSWER + 3]
    good = written(path)
    lines = lines_of(path)
    path.write_bytes(b"".join([*lines[:at], foreign, *lines[at:]]))
    assert "damaged" in doctor.examine(path.parents[1])[0].problem
    repaired(path)
    assert path.read_bytes() == good


def test_of_two_answers_to_a_sample_the_one_at_its_place_is_kept(path: Path) -> None:
    """A line of another run of the same cell has a right checksum of its own."""
    with Journal(path, IDENTITY, made=lambda: SESSION) as log:
        log.append({**ANSWER, "doc_id": 3, "answer": "another"})
    foreign = lines_of(path)[FIRST_ANSWER]
    good = written(path)
    lines = lines_of(path)
    path.write_bytes(b"".join([*lines[:9], foreign, *lines[9:]]))
    repaired(path)
    assert path.read_bytes() == good


def test_a_journal_cut_after_a_line_or_in_it_is_what_a_crash_leaves(path: Path) -> None:
    good = written(path)
    ends = [i + 1 for i, byte in enumerate(good) if byte == 10]
    for end in ends[:-1]:
        for cut in (end, end + 30):
            path.write_bytes(good[:cut])
            assert Journal(path, IDENTITY).result is None and doctor.examine(path.parents[1]) == []


@pytest.mark.parametrize("tail", [b"\x00" * 40, b"garbage", b'{"answer":"a\x07', b"x"])
def test_what_no_crash_leaves_at_the_end_is_damage(path: Path, tail: bytes) -> None:
    good = written(path, done=False)
    path.write_bytes(good + tail)
    repaired(path)
    assert path.read_bytes() == good


def test_nothing_follows_a_result(path: Path) -> None:
    good = written(path)
    path.write_bytes(good + b'{"answer":"the start of another line')
    repaired(path)
    assert path.read_bytes() == good


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"value":50.0', '"value":95.0', "its result says value 95.0, but its answers and scores give 50.0"),
        ('"n_failed":0', '"n_failed":1', "its result says n_failed 1, but its answers and scores give 0"),
        ('"seconds":10.0', '"seconds":9.0', "its result says seconds 9.0, but"),
        ('"n_distinct":20', '"n_distinct":2', "its result says n_distinct 2, but"),
        ('"count":20', '"count":19', "its result says prompts "),
    ],
)
def test_a_result_that_its_scores_do_not_give_is_an_error(path: Path, old: str, new: str, said: str) -> None:
    """Even with right checksums: who changes a number can compute them."""
    written(path)
    log = Journal(path, IDENTITY)
    changed = json.loads(json.dumps(log.result, separators=(",", ":")).replace(old, new))
    assert changed != log.result
    log._whole.replace([*log._whole.records[:-1], changed])
    with pytest.raises(UserError, match="a.jsonl: ") as caught:
        Journal(path, IDENTITY).check()
    assert said in str(caught.value)
    log = repaired(path)
    assert log.result is None and len(log.answers) == COUNT


def test_a_flipped_bit_in_a_processes_part_is_noticed_too(path: Path) -> None:
    with Journal(path, IDENTITY, part="0-of-2", made=lambda: SESSION) as log:
        log.append(*({**ANSWER, "doc_id": i} for i in range(3)))
    (part,) = (path.parent / "parts").iterdir()
    good, generator = part.read_bytes(), Random(2)
    for _ in range(60):
        part.write_bytes(flipped(good, generator.randrange(len(good)), generator.randrange(8)))
        with pytest.raises(UserError, match=part.name):
            Journal(path, IDENTITY)
        (finding,) = doctor.examine(path.parents[1])
        finding.repair()
        assert Journal(path, IDENTITY).answers.keys() <= {0, 1, 2}
