"""Several processes on one results folder: the rules with threads in their place, then torchrun itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from evals.cli import main
from evals.run.processes import Processes
from hidrop.errors import UserError
from tests.evals.run.small_matrix import small_matrix
from tests.evals.world import SAMPLES, World, samples_of, without_date

ROOT = Path(__file__).parents[3]


class Thread(Processes):
    """A process that is a thread."""

    barrier: threading.Barrier
    board: dict[int, Any]

    def wait(self) -> None:
        self.barrier.wait(timeout=60)

    def gather(self, thing: Any) -> list[Any]:
        self.board[self.rank] = thing
        self.wait()
        things = [self.board[rank] for rank in range(self.count)]
        self.wait()
        return things


def together(go: Any, worlds: list[World], **options: Any) -> Any:
    """The document of the first of several processes, each with a world of its own."""
    barrier, board = threading.Barrier(len(worlds)), dict[int, Any]()

    def run(rank: int) -> Any:
        me = Thread(rank, len(worlds))
        object.__setattr__(me, "barrier", barrier)
        object.__setattr__(me, "board", board)
        return go(worlds[rank], processes=me, **options)

    with ThreadPoolExecutor(len(worlds)) as pool:
        documents = list(pool.map(run, range(len(worlds))))
    return documents[0]


@pytest.mark.parametrize("count", [2, 3, 6])
def test_several_processes_share_the_work_and_write_what_one_writes(go: Any, tmp_path: Path, count: int) -> None:
    alone = go(World(), out="alone")
    worlds = [World() for _ in range(count)]
    document = together(go, worlds, out="together")
    asked = [one for world in worlds for one in world.asked]
    assert len(asked) == len(set(asked)) == 6 * SAMPLES
    assert all(world.asked for world in worlds)
    assert samples_of(tmp_path / "together") == samples_of(tmp_path / "alone")
    assert {**without_date(document), "out": None} == {**without_date(alone), "out": None}


def test_only_the_first_process_scores_and_times(go: Any) -> None:
    first, second = World(), World()
    together(go, [first, second])
    assert {call.split()[0] for call in second.calls} == {"load", "ask"}
    assert first.timed and not second.timed


def test_what_one_process_fails_at_is_failed_and_the_rest_goes_on(go: Any, tmp_path: Path) -> None:
    broken = World(broken={"ask plain/fastv/gqa": RuntimeError("out of memory")})
    document = together(go, [World(), broken])
    assert len(document["cells"]) == 5
    [failed] = document["failed"]
    assert failed["error"] == "RuntimeError: out of memory"
    assert "Traceback" in (tmp_path / "out/failures/plain.fastv.gqa.txt").read_text()
    rest = World()
    assert go(rest)["failed"] == []
    # The other process's samples were kept.
    assert 0 < len(rest.asked) < SAMPLES and {key for key, _ in rest.asked} == {"plain/fastv/gqa"}


def test_a_model_that_one_process_cannot_load_fails_its_cells(go: Any) -> None:
    document = together(go, [World(), World(broken={"load plain": RuntimeError("no memory left")})])
    assert {c["model"] for c in document["cells"]} == {"tuned"}
    assert {f["error"] for f in document["failed"]} == {"RuntimeError: no memory left"}


def test_a_finished_run_is_no_work_for_any_number_of_processes(go: Any) -> None:
    go(World())
    worlds = [World(), World()]
    assert len(together(go, worlds)["cells"]) == 6
    assert [world.calls for world in worlds] == [[], []]


def test_labels_that_are_one_cell_are_shared_once_and_fail_together(go: Any, tmp_path: Path) -> None:
    matrix = tmp_path / "tiny.yaml"
    text = matrix.read_text().replace("  own: {name", "  twin: {name: fastv, layer: 1, keep: 4}\n  own: {name")
    matrix.write_text(text.replace("[vanilla, fastv]", "[vanilla, fastv, twin]"))
    broken = World(broken={"ask plain/fastv/gqa": RuntimeError("out of memory")})
    failed = together(go, [World(), broken])["failed"]
    assert {(one["label"], one["task"], one["error"]) for one in failed} == {
        (label, "gqa", "RuntimeError: out of memory") for label in ("fastv", "twin")
    }
    worlds = [World(), World()]
    document = together(go, worlds)
    assert len(document["cells"]) == 8 and document["failed"] == []
    assert not any("/twin/" in key for world in worlds for key, _ in world.asked)
    assert len(list((tmp_path / "out/samples").glob("*.jsonl"))) == 6


def test_an_interrupted_cell_of_several_processes_goes_on_under_its_new_label(go: Any, tmp_path: Path) -> None:
    broken = World(broken={"ask plain/fastv/gqa": RuntimeError("out of memory")})
    together(go, [World(), broken])
    matrix = tmp_path / "tiny.yaml"
    text = matrix.read_text().replace("  fastv: {layer", "  fast: {name: fastv, layer")
    matrix.write_text(text.replace("[vanilla, fastv]", "[vanilla, fast]"))
    worlds = [World(), World(), World()]
    assert len(together(go, worlds)["cells"]) == 6
    asked = [one for world in worlds for one in world.asked]
    assert 0 < len(asked) < SAMPLES and {key for key, _ in asked} == {"plain/fast/gqa"}
    assert list((tmp_path / "out/samples/parts").iterdir()) == []


def test_a_process_takes_its_own_device_and_refuses_to_share_one() -> None:
    assert Processes().device("cuda:1") == "cuda:1"
    assert Processes(3, 4, 1).device("cuda") == "cuda:1"
    assert Processes(3, 4, 1).device("cpu") == "cpu"
    with pytest.raises(UserError, match="each of the 4 processes takes its own device"):
        Processes(3, 4, 1).device("cuda:0")


def test_half_a_launch_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UserError, match="RANK is not set: start the processes with `torchrun"):
        Processes.join()


MATRIX = small_matrix(12)


def test_two_processes_of_torchrun_write_the_tables_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(MATRIX)

    def arguments(out: str) -> list[str]:
        return ["--matrix", str(tmp_path / "small.yaml"), "--out", str(tmp_path / out), "--device", "cpu"]

    def tables(out: str) -> dict[str, bytes]:
        read = {name: (tmp_path / out / f"leaderboard.{name}").read_bytes() for name in ("csv", "md")}
        return {name: re.sub(rb"\*\*Date\*\*.*", b"", table) for name, table in read.items()}

    assert main(arguments("one")) == 0
    assert capsys.readouterr().out.count("written:") == 1
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    done = subprocess.run(
        [*torchrun, "run.py", *arguments("two")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("written:") == 1
    assert tables("one") == tables("two")
    answers = [sorted(p.name for p in (tmp_path / out / "samples").glob("*.jsonl")) for out in ("one", "two")]
    assert answers[0] == answers[1] and len(answers[0]) == 4
