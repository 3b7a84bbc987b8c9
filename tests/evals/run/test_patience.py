"""A process that hangs ends the run of the others after a stated time, with words that name it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hidrop.errors import UserError
from hidrop.patience import VARIABLE, patience

ROOT = Path(__file__).parents[3]
# The process whose number is given joins and then sleeps.
PROCESS = """
import sys, time
from evals.run.processes import Processes
from hidrop.errors import UserError
try:
    me = Processes.join()
    me.wait()
    print("joined", flush=True)
    if me.rank == int(sys.argv[1]):
        time.sleep(600)
    me.gather("a thing")
except UserError as error:
    print(error, flush=True)
    sys.exit(2)
"""


@pytest.mark.parametrize("hung", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_hung_process_is_named_after_the_patience_and_ends_the_others(hung: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    own = {VARIABLE: "0.25", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(hung)],
            env={**os.environ, **own, "RANK": str(rank), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        waiting = both[1 - hung]
        started = time.monotonic()
        said, _ = waiting.communicate(timeout=120)
        assert waiting.returncode == 2, said
        assert time.monotonic() - started > 10, "it waited"
        assert f"process {1 - hung} of 2 waited 0.25 minutes in vain for " in said
        assert ("for process 1:" if hung else "for the other processes:") in said
        assert "HIDROP_PATIENCE=<minutes> in the environment waits longer" in said
        assert both[hung].poll() is None
    finally:
        for process in both:
            process.kill()
            process.wait()


def test_patience_is_a_number_of_minutes_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert patience(120).total_seconds() == 7200
    monkeypatch.setenv(VARIABLE, "0.5")
    assert patience(120).total_seconds() == 30
    for text in ("0", "-1", "soon", "nan", "inf", "1e9"):
        monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(UserError, match="HIDROP_PATIENCE is '.*': give minutes"):
            patience(120)
