"""The SLURM array of docs/scale.md: one cell per task, all tasks at the same time in one folder, one of them killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evals.matrix.schema import load_matrix
from tests.evals.run.slurm import ROOT, documented, fake_slurm, tables
from tests.evals.run.small_matrix import small_matrix

MATRIX = small_matrix(80, "random: {layer: 1, keep: 9}", "pdrop: {layers: [1, 2], ratio: 0.5}")
LONGEST = 500  # seconds that the test waits for a task


@pytest.mark.slow
def test_the_tasks_of_an_array_add_up_to_the_tables_of_one_run_and_a_killed_one_goes_on(tmp_path: Path) -> None:
    matrix, out = tmp_path / "small.yaml", tmp_path / "out"
    matrix.write_text(MATRIX)
    keys = [cell.key for cell in load_matrix(matrix).cells()]
    script = tmp_path / "task.sh"
    changes = {
        "plan paper": f"plan {matrix}",
        "--matrix paper --out /shared/results/paper": f"--matrix {matrix} --out {out} --device cpu",
        "OMP_NUM_THREADS=8": "OMP_NUM_THREADS=1",
    }
    script.write_text(documented("--array", changes))
    environment = {**os.environ, **fake_slurm(tmp_path / "bin")}

    def start(number: int) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{number}.log").open("ab") as log:
            own = {**environment, "SLURM_ARRAY_TASK_ID": str(number)}
            return subprocess.Popen(
                ["bash", script], cwd=ROOT, env=own, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    tasks = [start(number) for number in range(len(keys))]
    victim, until = 3, time.monotonic() + LONGEST
    journal = f"samples/{keys[victim].replace('/', '.')}.*.jsonl"
    try:
        while not any(path.stat().st_size > 4096 for path in out.glob(journal)):
            assert tasks[victim].poll() is None and time.monotonic() < until, (tmp_path / f"{victim}.log").read_text()
            time.sleep(0.02)
        os.killpg(tasks[victim].pid, signal.SIGKILL)
        codes = [task.wait(LONGEST) for task in tasks]
    finally:
        for task in tasks:
            if task.poll() is None:
                os.killpg(task.pid, signal.SIGKILL)
    logs = [(tmp_path / f"{number}.log").read_text() for number in range(len(keys))]
    assert codes == [0] * victim + [-signal.SIGKILL] + [0] * (len(keys) - victim - 1), logs
    [path] = out.glob(journal)
    answered = path.read_bytes()
    assert b'"kind":"answer"' in answered and b'"kind":"result"' not in answered, "killed in the middle"
    listed = (out / "leaderboard.csv").read_text()
    assert "pdrop" in listed, "the last of the tasks that ended wrote a table of what is finished"

    assert start(victim).wait(LONGEST) == 0
    assert path.read_bytes().startswith(answered[: answered.rindex(b"\n") + 1]), "the answers were kept"
    command = [sys.executable, "run.py", "--matrix", matrix, "--device", "cpu", "--quiet", "--out"]
    alone = tmp_path / "alone"
    subprocess.run([*command, alone], cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, check=True)
    assert tables(out) == tables(alone)
    before = tables(out)
    subprocess.run([*command, out], cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1"}, check=True)
    assert tables(out) == before, "the second job finds nothing to do"
    assert list(out.glob(".cell-*")) == []


def test_an_array_with_too_many_tasks_runs_nothing(tmp_path: Path) -> None:
    script = documented(
        "--array", {"python run.py plan paper --cells": "echo only/one/cell", "python run.py": "echo ran"}
    )
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "1"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "ran" not in done.stdout
    assert "the array has more tasks than the matrix has cells" in done.stderr
