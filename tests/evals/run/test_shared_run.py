"""Runs with --share in one results folder at the same time: no cell is answered twice."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from evals.run.shared_run import SharedRunner
from evals.store import lock
from evals.store.lock import InUse, locked
from tests.evals.holding import held_elsewhere
from tests.evals.world import SAMPLES, World, samples_of, without_date


def asked_of(worlds: list[World]) -> list[tuple[str, int]]:
    return [one for world in worlds for one in world.asked]


def test_runs_at_the_same_time_answer_each_cell_once_and_write_what_one_run_writes(go: Any, tmp_path: Path) -> None:
    alone = go(World(), out="alone")
    worlds = [World() for _ in range(4)]
    with ThreadPoolExecutor(len(worlds)) as pool:
        documents = list(pool.map(lambda world: go(world, kind=SharedRunner), worlds))
    asked = asked_of(worlds)
    assert len(asked) == len(set(asked)) == 6 * SAMPLES
    assert samples_of(tmp_path / "out") == samples_of(tmp_path / "alone")
    assert not any(world.timed for world in worlds) and not any(document["profiles"] for document in documents)
    last = World()
    whole = go(last)
    assert not last.asked and last.timed, "a run without --share takes the timings"
    assert {**without_date(whole), "out": None} == {**without_date(alone), "out": None}
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [".lock"], "the locks on cells are gone"


def test_a_cell_that_another_run_has_is_left_to_it_and_named_with_its_process(go: Any, tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        if not entered.is_set():
            entered.set()
            assert leave.wait(60)

    first, second = World(), World()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(go, first, kind=SharedRunner, only="plain/vanilla/gqa", pause=hold)
        assert entered.wait(60)
        document = go(second, kind=SharedRunner)
        with pytest.raises(InUse, match="in use by runs with --share"):
            go(World())
        leave.set()
        assert len(running.result(60)["cells"]) == 1
    assert len(document["cells"]) == 5 and document["failed"] == []
    assert "plain/vanilla/gqa: left to process " in go.log.getvalue()
    assert {key for key, _ in first.asked} == {"plain/vanilla/gqa"}
    assert len(asked_of([first, second])) == len(set(asked_of([first, second]))) == 6 * SAMPLES


def test_what_fails_in_a_shared_run_is_recorded_and_the_next_one_answers_the_rest(go: Any, tmp_path: Path) -> None:
    broken = World(broken={"load tuned": RuntimeError("no memory left")})
    document = go(broken, kind=SharedRunner)
    assert {(one["model"], one["error"]) for one in document["failed"]} == {("tuned", "RuntimeError: no memory left")}
    assert len(document["failed"]) == 2 and broken.calls.count("load tuned") == 1
    rest = World()
    assert go(rest, kind=SharedRunner)["failed"] == []
    assert {key for key, _ in rest.asked} == {"tuned/own/gqa", "tuned/own/pope"}
    assert list((tmp_path / "out/failures").glob("*.txt")) == []


def test_an_interrupted_shared_run_goes_on_in_the_next_one(go: Any, tmp_path: Path) -> None:
    go(World(), out="whole")
    with pytest.raises(KeyboardInterrupt):
        go(World(stop_after=SAMPLES + 3), kind=SharedRunner)
    rest = World()
    go(rest, kind=SharedRunner)
    assert len(rest.asked) == 5 * SAMPLES - 3
    assert samples_of(tmp_path / "out") == samples_of(tmp_path / "whole")


def test_a_finished_shared_run_loads_nothing(go: Any) -> None:
    go(World())
    world = World()
    assert len(go(world, kind=SharedRunner)["cells"]) == 6 and world.calls == []


def test_a_shared_lock_keeps_others_out_and_is_forgotten_by_its_last_owner(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path, shared=True), locked(tmp_path, shared=True), pytest.raises(AssertionError):
        assert lock.holder(tmp_path) == "runs with --share"
        with locked(tmp_path):
            pytest.fail("it has the folder for itself")
    with held_elsewhere(tmp_path, shared=True):
        with locked(tmp_path, shared=True):
            pass
        assert lock.holder(tmp_path) == "runs with --share"
        with pytest.raises(InUse, match="in use by runs with --share"), locked(tmp_path):
            pytest.fail("it has the folder for itself")
    with locked(tmp_path):
        assert str(lock.holder(tmp_path)).startswith("process ")
    with held_elsewhere(tmp_path), pytest.raises(InUse, match="in use by process"), locked(tmp_path, shared=True):
        pytest.fail("it shares a folder that another process has for itself")
    assert lock.holder(tmp_path) is None
