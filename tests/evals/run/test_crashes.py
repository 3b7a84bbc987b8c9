"""What is left when a run ends early: interrupts, kills, full disks."""

import pytest

from tests.evals.world import SAMPLES, World, samples_of


def test_an_interrupted_run_goes_on_where_it_stopped_and_ends_in_the_same_files(go, tmp_path):
    go(World(), out="whole")
    for stop in (0, 3, SAMPLES, 2 * SAMPLES + 1):
        out = f"stopped-{stop}"
        with pytest.raises(KeyboardInterrupt):
            go(World(stop_after=stop), out=out)
        rest = World()
        go(rest, out=out)
        assert len(rest.asked) == 6 * SAMPLES - stop
        assert samples_of(tmp_path / out) == samples_of(tmp_path / "whole")


def test_an_interrupt_stops_after_the_batch_that_is_running(go, tmp_path):
    def pause():
        if len(world.asked) >= 3:
            raise KeyboardInterrupt

    world, rest = World(), World()
    with pytest.raises(KeyboardInterrupt):
        go(world, pause=pause)
    assert len(world.asked) == 3
    go(rest)
    assert len(rest.asked) == 6 * SAMPLES - 3


def full_after(monkeypatch, count):
    """The disk is full after `count` calls of fsync. Returns a function that makes room again."""
    import errno
    import os

    real, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > count:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return lambda: monkeypatch.setattr(os, "fsync", real)


def temporaries(folder):
    return [path for path in folder.rglob("*") if path.suffix == ".tmp"]


def test_a_full_disk_ends_the_run_in_words_and_loses_nothing_that_was_written(go, tmp_path, monkeypatch):
    make_room = full_after(monkeypatch, 3)  # the first record's, its folder's, and the second record's
    world = World()
    document = go(world)
    first, *others = document["failed"]
    assert "cannot be written (No space left on device). Its records so far are kept" in first["error"]
    assert len(others) == 5 and all(failed["error"] == f"not run: {first['error']}" for failed in others)
    assert document["cells"] == [] and len(world.asked) == 3
    assert world.calls == ["load plain", "evaluate plain/vanilla/gqa"], "nothing else was tried"
    assert temporaries(tmp_path) == []
    make_room()
    rest = World()
    assert go(rest)["failed"] == []
    assert len(rest.asked) == 6 * SAMPLES - 2
    go(World(), out="whole")
    assert samples_of(tmp_path / "out") == samples_of(tmp_path / "whole")


def test_finished_cells_stay_in_the_table_when_the_disk_is_full(go, monkeypatch):
    first = go(World(), only="plain")
    full_after(monkeypatch, 0)
    world = World()
    document = go(world)
    assert [cell["value"] for cell in document["cells"]] == [cell["value"] for cell in first["cells"]]
    assert {failed["model"] for failed in document["failed"]} == {"tuned"} and world.timed == []


def test_a_real_limit_ends_the_run_and_leaves_no_temporary_file(tmp_path):
    """The kernel refuses to make a file longer than RLIMIT_FSIZE, as it does on a full disk."""
    import subprocess
    import sys
    from pathlib import Path

    code = (
        "import pathlib, resource, sys\n"
        "from evals import report\n"
        "from tests.evals.world import World, going\n"
        "go, folder = going(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[1]) / 'out'\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))\n"
        "world = World()\n"
        "document = go(world)\n"
        "print(len(document['failed']), len(world.calls), document['failed'][0]['error'])\n"
        "try:\n"
        "    report.write(document, folder)\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cell, table = done.stdout.splitlines()
    assert cell.startswith("6 2 ") and "cannot be written (File too large)" in cell
    assert "cannot be written (File too large). The old file, if any, is kept" in table
    assert temporaries(tmp_path) == []


def test_a_journal_holds_what_a_kill_at_any_moment_leaves(tmp_path):
    """SIGKILL at random moments, again and again; the end is the file of a run that nobody disturbed."""
    import random
    import subprocess
    import sys
    import time
    from pathlib import Path

    code = (
        "import sys, time, pathlib\n"
        "from tests.evals.world import World, going\n"
        "class Slow(World):\n"
        "    def happens(self, what):\n"
        "        super().happens(what)\n"
        "        time.sleep(0.002)\n"
        "    def answer(self, lm, cell):\n"
        "        record = lm[3]\n"
        "        def slowly(batch):\n"
        "            record(batch)\n"
        "            time.sleep(0.01)\n"
        "        super().answer((*lm[:3], slowly, *lm[4:]), cell)\n"
        "going(pathlib.Path(sys.argv[1]))(Slow(), out=sys.argv[2])\n"
        "print('done')\n"
    )
    root, generator = Path(__file__).parents[3], random.Random(0)

    def start(out):
        return subprocess.Popen([sys.executable, "-c", code, str(tmp_path), out], cwd=root, stdout=subprocess.PIPE)

    assert start("whole").wait(timeout=120) == 0
    samples, killed = tmp_path / "killed/samples", 0
    for _ in range(40):
        process = start("killed")
        before = samples_of(tmp_path / "killed") if samples.exists() else {}
        while process.poll() is None and (samples_of(tmp_path / "killed") if samples.exists() else {}) == before:
            time.sleep(0.002)
        time.sleep(generator.uniform(0, 0.08))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        killed += 1
    else:
        pytest.fail("it never came to an end")
    assert killed >= 3
    assert samples_of(tmp_path / "killed") == samples_of(tmp_path / "whole")
