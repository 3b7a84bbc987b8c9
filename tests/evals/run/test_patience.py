"""A process that hangs or dies ends the run of the others, at the latest after a stated time, in words that name it."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals.run.processes import Processes
from hidrop.errors import UserError
from hidrop.patience import VARIABLE, patience

ROOT = Path(__file__).parents[3]
# The process whose number is given joins and then sleeps, or dies a moment later.
PROCESS = """
import os, sys, time
from evals.run.processes import Processes
from hidrop.errors import UserError
try:
    me = Processes.join()
    me.wait()
    print("joined", flush=True)
    if me.rank == int(sys.argv[1]):
        if sys.argv[2] == "dies":
            time.sleep(1)
            os._exit(9)
        time.sleep(600)
    me.gather("a thing")
except UserError as error:
    print(error, flush=True)
    sys.exit(2)
"""


@contextlib.contextmanager
def two_processes(last: int, fate: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that have joined. The process `last` "hangs" or "dies"."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    own = {VARIABLE: "0.25", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(last), fate],
            env={**os.environ, **own, "RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        yield both
    finally:
        for process in both:
            process.kill()
            process.wait()


@pytest.mark.parametrize("hung", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_hung_process_is_named_after_the_patience_and_ends_the_others(hung: int) -> None:
    with two_processes(hung, "hangs") as both:
        waiting = both[1 - hung]
        started = time.monotonic()
        said, _ = waiting.communicate(timeout=120)
        assert waiting.returncode == 2, said
        assert time.monotonic() - started > 10, "it waited"
        assert f"process {1 - hung} of 2 waited 0.25 minutes in vain for process {hung}: it hangs, has died" in said
        assert "HIDROP_PATIENCE=<minutes> in the environment waits longer" in said
        assert both[hung].poll() is None


def test_the_death_of_a_process_ends_the_others_at_once_and_is_not_called_a_wait() -> None:
    with two_processes(1, "dies") as both:
        said, _ = both[0].communicate(timeout=120)
    assert both[0].returncode == 2
    assert "process 0 of 2 lost the connection to process 1: it has died, or the network has failed." in said
    assert "start the same command again, on all machines, and it goes on" in said and VARIABLE not in said


def test_machines_that_cannot_reach_each_other_are_told_what_to_look_at() -> None:
    with (
        pytest.raises(
            UserError, match=r"process 0 of 2 cannot connect to process 1: Connection refused.*127\.0\.1\.1.*GLOO"
        ),
        Processes(0, 2)._waiting(datetime.timedelta(minutes=1)),
    ):
        raise RuntimeError("Connection refused")


@pytest.mark.parametrize(
    ("rank", "error", "who"),
    [
        (0, "[Rank 0]: Ranks 1, 2 failed to pass monitoredBarrier in 8 ms", "process 1 (on b), process 2 (on b)"),
        (0, "Connection closed by peer", "the other processes"),
        (2, "Rank 2 successfully reached monitoredBarrier, but ...", "process 0 (on a), or one that it waits for"),
    ],
)
def test_who_did_not_answer_is_named_with_its_machine(rank: int, error: str, who: str) -> None:
    process = Processes(rank, 3, hosts=("a", "b", "b"))
    with pytest.raises(UserError) as raised, process._waiting(datetime.timedelta(seconds=1)):
        raise RuntimeError(error)
    assert f" of 3 lost the connection to {who}: " in str(raised.value)


def test_patience_is_a_number_of_minutes_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert patience(120).total_seconds() == 7200
    monkeypatch.setenv(VARIABLE, "0.5")
    assert patience(120).total_seconds() == 30
    for text in ("0", "-1", "soon", "nan", "inf", "1e9"):
        monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(UserError, match="HIDROP_PATIENCE is '.*': give minutes"):
            patience(120)
