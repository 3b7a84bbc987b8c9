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


def test_a_full_disk_fails_the_cell_in_words_and_loses_nothing_that_was_written(go, tmp_path, monkeypatch):
    import errno
    import os

    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    document = go(World())
    [failed] = document["failed"]
    assert "cannot be written (No space left on device). Its records so far are kept" in failed["error"]
    monkeypatch.setattr(os, "fsync", real)
    rest = World()
    assert go(rest)["failed"] == []
    assert len(rest.asked) == SAMPLES - 2
    go(World(), out="whole")
    assert samples_of(tmp_path / "out") == samples_of(tmp_path / "whole")


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
