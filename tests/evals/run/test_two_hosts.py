"""torchrun over two hosts, as the SLURM script of docs/scale.md starts it: a host that dies, a network that stalls."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.evals.run.slurm import documented, fake_slurm, tables
from tests.evals.run.small_matrix import small_matrix
from tests.evals.run.two_hosts import ROOT, Host, impossible, two_hosts

pytestmark = pytest.mark.slow

MATRIX = small_matrix(160)
LONGEST = 300  # seconds that a test waits for a run

Start = Callable[[Host], "subprocess.Popen[bytes]"]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    if why := impossible():
        pytest.skip(f"no two hosts on this machine: {why}")
    with two_hosts(tmp_path_factory.mktemp("network")) as found:
        yield found


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("matrix") / "small.yaml"
    path.write_text(MATRIX)
    return path


@pytest.fixture(scope="module")
def tables_of_one_process(matrix: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("alone") / "out"
    command = [sys.executable, "run.py", "--matrix", matrix, "--out", out, "--device", "cpu", "--quiet"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=LONGEST, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return tables(out)


@pytest.fixture
def start(hosts: tuple[Host, Host], matrix: Path, tmp_path: Path) -> Iterator[Start]:
    """start(host): run the documented script on a host, with one process each. Its output goes to <host>.log."""
    script = tmp_path / "job.sh"
    changes = {
        "--nproc_per_node=8": "--nproc_per_node=1",
        "HIDROP_PATIENCE=60": "HIDROP_PATIENCE=0.5",
        "OMP_NUM_THREADS=8": "OMP_NUM_THREADS=1 ACCELERATE_USE_CPU=true",
        "--matrix paper --out /shared/results/paper": f"--matrix {matrix} --out {tmp_path / 'out'} --device cpu",
    }
    script.write_text(documented("--nnodes", changes))
    names = [host.name for host in hosts]
    environment = {**os.environ, **fake_slurm(tmp_path / "bin", names)}
    started: list[subprocess.Popen[bytes]] = []

    def run(host: Host) -> subprocess.Popen[bytes]:
        started.append(host.start("bash", script, log=tmp_path / f"{host.name}.log", environment=environment))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def begun(out: Path, processes: int = 2) -> None:
    """Wait until each process has written answers."""
    until = time.monotonic() + LONGEST
    while len(list(out.glob("samples/parts/*.jsonl"))) < processes:
        assert time.monotonic() < until, "no process has answered anything"
        time.sleep(0.1)


def finish(start: Start, hosts: tuple[Host, Host]) -> None:
    """Start the command on both hosts and wait until it is done."""
    assert [process.wait(LONGEST) for process in [start(host) for host in hosts]] == [0, 0]


def test_two_hosts_write_the_tables_of_one_process(
    hosts: tuple[Host, Host], start: Start, tmp_path: Path, tables_of_one_process: dict[str, bytes]
) -> None:
    finish(start, hosts)
    assert tables(tmp_path / "out") == tables_of_one_process


def test_a_host_that_was_killed_joins_again_and_the_other_one_was_never_stopped(
    hosts: tuple[Host, Host], start: Start, tmp_path: Path, tables_of_one_process: dict[str, bytes]
) -> None:
    one, two = (start(host) for host in hosts)
    begun(tmp_path / "out")
    two.kill()  # with kill -9, and so all that runs on the host
    two.wait()
    assert one.poll() is None and not (tmp_path / "out/leaderboard.md").exists(), "killed in the middle"
    again = start(hosts[1])
    assert one.wait(LONGEST) == again.wait(LONGEST) == 0
    assert tables(tmp_path / "out") == tables_of_one_process


def test_after_the_death_of_the_first_host_the_same_command_on_both_goes_on(
    hosts: tuple[Host, Host], start: Start, tmp_path: Path, tables_of_one_process: dict[str, bytes]
) -> None:
    one, two = (start(host) for host in hosts)
    begun(tmp_path / "out")
    one.kill()
    one.wait()
    assert not (tmp_path / "out/leaderboard.md").exists(), "killed in the middle"
    assert two.wait(LONGEST) != 0
    finish(start, hosts)
    assert tables(tmp_path / "out") == tables_of_one_process


def test_a_network_that_stalls_ends_the_run_in_words_after_the_patience(
    hosts: tuple[Host, Host], start: Start, tmp_path: Path, tables_of_one_process: dict[str, bytes]
) -> None:
    both = [start(host) for host in hosts]
    begun(tmp_path / "out")
    hosts[1].network("down")
    cut = time.monotonic()
    logs = [tmp_path / f"{host.name}.log" for host in hosts]
    try:
        said = [f"process {rank} (on {host.name}) of 2 waited 0.5 minutes" for rank, host in enumerate(hosts)]
        while not all(words in log.read_text() for words, log in zip(said, logs, strict=True)):
            assert time.monotonic() - cut < LONGEST, [log.read_text() for log in logs]
            time.sleep(0.5)
    finally:
        hosts[1].network("up")
    names = [host.name for host in hosts]
    assert f"in vain for process 1 (on {names[1]}): it hangs, has died or cannot be reached" in logs[0].read_text()
    assert f"in vain for process 0 (on {names[0]}): it hangs, has died or cannot be reached" in logs[1].read_text()
    assert "start the same command again, on all machines, and it goes on" in logs[1].read_text()
    for process in both:
        process.kill()
        process.wait()
    finish(start, hosts)
    assert tables(tmp_path / "out") == tables_of_one_process
