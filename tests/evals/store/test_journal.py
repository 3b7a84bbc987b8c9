import json
import os
import shlex
import signal
import subprocess
import sys
import time

import pytest

from evals.cli import main
from evals.cli.exit_codes import DONE
from evals.store import journal
from evals.store.journal import Journal
from evals.store.lock import locked
from evals.store.sealed_lines import canonical, sealed
from hidrop.errors import UserError
from tests.evals.world import ANSWER, SCORE, result_of, undated

IDENTITY = {"task": "gqa", "weights": "abc"}


def answer(doc_id, **values):
    return {"kind": "answer", "doc_id": doc_id, **ANSWER, "answer": f"größe {doc_id}", **values}


def scores(count):
    return [{"doc_id": i, **SCORE} for i in range(count)]


def filled(path, count=3, done=True):
    with Journal(path, IDENTITY) as log:
        for doc_id in range(count):
            log.append(answer(doc_id))
        if done:
            log.finish(scores(count), result_of(count))
    return path


def test_a_journal_begins_with_its_schema_and_the_whole_identity(tmp_path):
    header = json.loads(filled(tmp_path / "a.jsonl").read_text().splitlines()[0])
    assert len(header.pop("sum")) == len(header.pop("link")) == 16
    assert header == {"schema": 3, "kind": "cell", "id": journal.identity_hash(IDENTITY), "identity": IDENTITY}


def test_what_was_written_is_read_back(tmp_path):
    again = Journal(filled(tmp_path / "a.jsonl"), IDENTITY)
    assert again.answers == {i: answer(i) for i in range(3)}
    assert again.result == {"kind": "result", **result_of(3)}


def test_opening_a_journal_writes_nothing(tmp_path):
    Journal(tmp_path / "sub" / "a.jsonl", IDENTITY).close()
    assert list(tmp_path.iterdir()) == []


def test_each_answer_is_in_the_file_before_the_next_one_is_made(tmp_path):
    path = tmp_path / "a.jsonl"
    with Journal(path, IDENTITY) as log:
        for count in range(1, 4):
            log.append(answer(count))
            assert len(path.read_text().splitlines()) == 1 + count


def test_a_journal_cut_at_any_byte_goes_on_to_the_same_file(tmp_path):
    whole = filled(tmp_path / "whole.jsonl").read_bytes()
    path = tmp_path / "cut.jsonl"
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        with Journal(path, IDENTITY) as log:
            for doc_id in range(3):
                if doc_id not in log.answers:
                    log.append(answer(doc_id))
            if log.result is None:
                log.finish(scores(3), result_of(3))
        assert path.read_bytes() == whole, f"cut after {length} bytes"


def in_batches(doc_id):
    """As a task's batches are: of two, the longest questions first."""
    return answer(doc_id, batch=[2, 0, 1, 0, 1, 2][doc_id])


ORDER = (1, 3, 2, 4, 0, 5)  # by batch and doc_id


def session(date):
    return {"hardware": {"cpu": "x"}, "versions": {"torch": "2"}, "commit": "abc+", "date": date}


def test_a_journal_cut_at_any_byte_differs_in_its_sessions_alone(tmp_path):
    """Record for record what an undisturbed process writes, and the session that went on."""
    path, first, second = tmp_path / "a.jsonl", session("2026-11-26"), session("2026-11-27")

    def go_on(made):
        with Journal(path, IDENTITY, made=lambda: made) as log:
            for doc_id in range(3):
                if doc_id not in log.answers:
                    log.append(answer(doc_id))
            if log.result is None:
                log.finish(scores(3), result_of(3))

    go_on(first)
    whole, records = path.read_bytes(), Journal(path, IDENTITY)._whole.records
    assert [record["kind"] for record in records[:2]] == ["provenance", "answer"]
    for length in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:length])
        before = Journal(path, IDENTITY)
        answered, sessions = len(before.answers), len(before.provenance)
        go_on(second)
        assert undated(path.read_bytes()) == undated(whole)
        told = [first] * sessions + [second] * (answered < 3)
        found = Journal(path, IDENTITY).provenance
        assert found == [{"kind": "provenance", **one} for one in told], f"cut after {length} bytes"


def test_the_parts_of_several_processes_keep_their_sessions(tmp_path):
    path = tmp_path / "a.jsonl"
    for rank in (1, 0):
        made = session(f"2026-11-2{rank}")
        with Journal(path, IDENTITY, part=f"{rank}-of-2", made=lambda made=made: made) as log:
            log.append(*(in_batches(doc_id) for doc_id in ORDER if in_batches(doc_id)["batch"] % 2 == rank))
    with Journal(path, IDENTITY, made=lambda: session("2026-11-29")) as log:
        log.finish(scores(6), result_of(6))
    assert [one["date"] for one in Journal(path, IDENTITY).provenance] == ["2026-11-20", "2026-11-21"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_parts_of_several_processes_become_the_file_that_one_would_have_written(tmp_path, count):
    with Journal(tmp_path / "one.jsonl", IDENTITY) as log:
        log.append(*map(in_batches, ORDER))
        log.finish(scores(6), result_of(6))
    path = tmp_path / "several.jsonl"
    for rank in range(count):
        with Journal(path, IDENTITY, part=f"{rank}-of-{count}") as log:
            log.append(*(in_batches(doc_id) for doc_id in ORDER if in_batches(doc_id)["batch"] % count == rank))
    with Journal(path, IDENTITY) as log:
        assert sorted(log.answers) == list(range(6)) and log.result is None
        log.finish(scores(6), result_of(6))
    assert path.read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert list((tmp_path / "parts").iterdir()) == []


def test_parts_of_an_interrupted_run_are_found_by_any_number_of_processes(tmp_path):
    path = tmp_path / "a.jsonl"
    with Journal(path, IDENTITY) as log:
        log.append(in_batches(1))  # one process was alone at first
    with Journal(path, IDENTITY, part="1-of-2") as log:
        log.append(in_batches(2))
    torn = tmp_path / "parts" / "a.1-of-2.jsonl"
    torn.write_bytes(torn.read_bytes() + b'{"kind":"ans')
    with Journal(path, IDENTITY, part="0-of-3") as log:
        assert sorted(log.answers) == [1, 2]
        log.append(in_batches(0))
    with Journal(path, IDENTITY) as log:
        assert sorted(log.answers) == [0, 1, 2]
        log.append(*(in_batches(doc_id) for doc_id in (3, 4, 5)))
        log.finish(scores(6), result_of(6))
    again = Journal(path, IDENTITY)
    assert sorted(again.answers) == list(range(6)) and again.result
    assert list((tmp_path / "parts").iterdir()) == []


def test_a_process_goes_on_with_its_own_part(tmp_path):
    path, part = tmp_path / "a.jsonl", tmp_path / "parts" / "a.0-of-2.jsonl"
    for doc_id in (1, 3):
        with Journal(path, IDENTITY, part="0-of-2") as log:
            log.append(in_batches(doc_id))
    assert [json.loads(line)["kind"] for line in part.read_text().splitlines()] == ["cell", "answer", "answer"]
    assert not path.exists()


@pytest.mark.parametrize("damage", [b"{broken\n", b"[]\n", b'"kind"\n', b"{}\n", b"\xff\xfe\n", b"\n"])
def test_damage_in_the_middle_is_named_with_its_line(tmp_path, damage):
    path = filled(tmp_path / "a.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], damage, *lines[2:]]))
    with pytest.raises(UserError, match=r"a\.jsonl: line 3 is damaged"):
        Journal(path, IDENTITY)


@pytest.mark.parametrize("place", ["samples/a.jsonl", "samples/parts/a.0-of-2.jsonl"])
def test_a_damaged_journal_names_the_whole_command_that_repairs_it(tmp_path, capsys, place):
    out = tmp_path / "my out"
    filled(out / "samples/a.jsonl", done=False)
    path = out / place
    path.parent.mkdir(exist_ok=True)
    whole = (out / "samples/a.jsonl").read_bytes()
    path.write_bytes(whole.replace(b'"doc_id":1', b'"doc_id":7'))
    with pytest.raises(UserError, match=r"`run\.py doctor .* --repair` repairs it") as caught:
        Journal(out / "samples/a.jsonl", IDENTITY)
    _, *command = shlex.split(str(caught.value).split("`")[1])
    assert command == ["doctor", str(out), "--repair"]
    assert main(command) == DONE and path.with_name(f"{path.name}.damaged").exists()
    Journal(out / "samples/a.jsonl", IDENTITY)


def outside(kind, victim):
    """A file of somebody else: a whole journal, the start of one, another file, or an empty one."""
    if kind == "a journal":
        filled(victim, done=False)
    elif kind == "a torn journal":
        victim.write_bytes(filled(victim, done=False).read_bytes()[:-5])
    else:
        victim.write_text({"settings": '{"precious": 1', "empty": ""}[kind])
    return victim.read_bytes()


@pytest.mark.parametrize("part", [None, "0-of-2"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("kind", ["a journal", "a torn journal", "settings", "empty"])
def test_a_journal_that_is_a_link_is_not_written(tmp_path, kind, link, part):
    victim, path = tmp_path / "victim", tmp_path / "samples/a.jsonl"
    before = outside(kind, victim)
    place = path if part is None else path.parent / f"parts/a.{part}.jsonl"
    place.parent.mkdir(parents=True)
    link(victim, place)
    with pytest.raises(UserError, match=r"link|damaged"):
        Journal(path, IDENTITY, part).append(answer(7))
    assert victim.read_bytes() == before


@pytest.mark.parametrize("name", ["samples", "samples/parts", "samples/replaced"])
def test_a_journal_in_a_linked_folder_is_not_opened(tmp_path, name):
    (tmp_path / "outside").mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="a link to another folder"):
        Journal(tmp_path / "samples/a.jsonl", IDENTITY)


def test_a_results_folder_may_itself_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert len(Journal(filled(tmp_path / "out/samples/a.jsonl"), IDENTITY).answers) == 3


def test_a_journal_of_another_cell_is_not_taken_for_this_one(tmp_path):
    path = filled(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match="belongs to a different cell"):
        Journal(path, {**IDENTITY, "weights": "other"})


def test_a_journal_of_another_schema_is_refused(tmp_path):
    header = {"schema": 2, "kind": "cell", "id": journal.identity_hash(IDENTITY), "identity": IDENTITY}
    path = tmp_path / "a.jsonl"
    path.write_text(f"{canonical(header)}\n{canonical(answer(0))}\n")
    with pytest.raises(UserError, match="another version of hidrop .schema 2, this version reads 3"):
        Journal(path, IDENTITY)
    newer, _ = sealed([{**header, "schema": 99}], header["id"])
    path.write_bytes(newer)
    with pytest.raises(UserError, match="schema 99"):
        Journal(path, IDENTITY)
    path.write_bytes(newer.replace(b'"schema":99', b'"schema":98'))
    with pytest.raises(UserError, match="its first line is damaged"):
        Journal(path, IDENTITY)


def test_not_a_number_never_gets_into_a_journal(tmp_path):
    with Journal(tmp_path / "a.jsonl", IDENTITY) as log, pytest.raises(ValueError):
        log.append(answer(0, score=float("nan")))


def test_identities_differ_exactly_when_their_content_does():
    assert journal.identity_hash({"a": 1, "b": [1, 2]}) == journal.identity_hash({"b": [1, 2], "a": 1})
    assert journal.identity_hash({"a": 1}) != journal.identity_hash({"a": 2})


HOLDER = """
import pathlib, sys, time
from evals.store.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_is_working_in_the_folder_until_that_one_is_dead(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on "), locked(tmp_path):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    time.sleep(0.05)
    with locked(tmp_path):
        pass


def test_a_lock_is_free_again_after_its_block(tmp_path):
    for _ in range(2):
        with locked(tmp_path):
            assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert (tmp_path / ".lock").read_text() == ""


def test_a_record_that_found_no_room_is_not_written_later(tmp_path):
    """A file that takes ten bytes and then no more, as a full disk does; afterwards there is room again."""
    import errno

    class Full:
        def __init__(self, inner):
            self.inner, self.room = inner, 10

        def write(self, data):
            if self.room == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.room = 0
            return self.inner.write(bytes(data[:10]))

        def __getattr__(self, name):
            return getattr(self.inner, name)

    path = tmp_path / "a.jsonl"
    with Journal(path, IDENTITY) as log:
        log.append(answer(0))
        whole = path.read_bytes()
        lines = log._own
        lines._file = Full(lines._file)
        with pytest.raises(UserError, match="No space left on device"):
            log.append(answer(1))
        assert path.read_bytes() == whole
        log.append(answer(2))
    assert sorted(Journal(path, IDENTITY).answers) == [0, 2]
