from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from evals.run import live_view as live
from evals.run.live_view import LiveView, duration
from evals.run.progress import Progress

ENTRY = {"metric": "exact_match", "value": 61.25, "n": 40, "n_failed": 1}
KEYS = ["mini/[a]/gqa", "mini/b/gqa", "mini/c/gqa"]


def told(terminal: bool = False, every: float = 15.0, quiet: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, quiet=quiet)
    with Progress(console, 3, dict.fromkeys(KEYS, 40)) as progress:
        progress.every_seconds = every
        progress.model("mini")
        progress.started(KEYS[0], 0)
        for _ in range(40):
            progress.samples(KEYS[0], 1)
        progress.finished(KEYS[0], ENTRY, earlier=False)
        progress.finished(KEYS[1], ENTRY, earlier=True)
        progress.failed(KEYS[2], "RuntimeError: [x]")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_pipe_gets_one_plain_line_for_each_cell() -> None:
    assert told().splitlines() == [
        "[1/3] mini/[a]/gqa: exact_match 61.25 on 40, 1 failed",
        "[2/3] mini/b/gqa: exact_match 61.25 on 40, 1 failed (from an earlier run)",
        "[3/3] mini/c/gqa: failed: RuntimeError: [x]",
    ]


TIMED: Any = {**ENTRY, "preparing_seconds": 0.8, "seconds": 3.42, "scoring_seconds": 1.25}


def test_a_cell_that_ran_says_what_its_time_was_for_and_the_view_has_the_sums() -> None:
    console = Console(file=io.StringIO(), width=150)
    with Progress(console, 3) as progress:
        progress.finished(KEYS[0], TIMED, earlier=False)
        progress.finished(KEYS[1], TIMED, earlier=True)
        progress.finished(KEYS[2], TIMED, earlier=False)
    assert isinstance(console.file, io.StringIO)
    took, earlier, _ = console.file.getvalue().splitlines()
    assert took.endswith("on 40, 1 failed, preparing 0.8 s, generating 3.4 s, scoring 1.2 s")
    assert earlier.endswith("(from an earlier run)")
    assert "preparing 1.6 s, generating 6.8 s, scoring 2.5 s" in drawn(progress.view)


def test_a_pipe_hears_of_a_long_cell_now_and_then() -> None:
    lines = told(every=-1.0).splitlines()
    assert len(lines) == 43 and lines[39] == "[1/3] mini/[a]/gqa: 40 of 40 samples"


def test_a_terminal_gets_a_live_view_and_what_failed() -> None:
    shown = told(terminal=True)
    assert "\x1b[" in shown
    assert "[3/3] mini/c/gqa: failed: RuntimeError: [x]" in shown
    assert "exact_match" not in shown, "the view has the scores, and the table that follows"


def test_quiet_says_nothing() -> None:
    assert told(quiet=True) == told(terminal=True, quiet=True) == ""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one number is the time."""
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    return now


def drawn(view: LiveView, height: int = 40) -> str:
    console = Console(file=io.StringIO(), width=100, height=height)
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_view_tells_cells_rate_time_left_memory_and_the_table_so_far(clock: list[float]) -> None:
    view = LiveView(3, {"m/vanilla/gqa": 100, "m/vanilla/pope": 100, "m/fastv/gqa": 100})
    assert "0 of 3 cells" in drawn(view) and "left" not in drawn(view)
    clock[0] += 60  # loading takes its time, and says nothing about the samples
    view.begin("m/vanilla/gqa", 20)
    clock[0] += 10
    view.count("m/vanilla/gqa", 80)
    shown = drawn(view)
    assert "m/vanilla/gqa: 100 of 100 samples (20 from an earlier run), 8.0 samples/s" in shown
    view.end("m/vanilla/gqa", 61.25)
    assert view.seconds_left() == pytest.approx(200 / 8)
    view.end("m/vanilla/pope", None)
    shown = drawn(view)
    assert "2 of 3 cells, 8.0 samples/s, about 12 s left, " in shown and "GiB" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["row", "GQA", "POPE"] in lines and ["m/vanilla", "61.2", "failed"] in lines


def test_between_cells_the_view_says_what_it_does_and_for_how_long(clock: list[float]) -> None:
    view = LiveView(2, {"m/a/gqa": 100})
    assert "starting, 0 s" in drawn(view)
    view.phase("loading llava-1.5-7b")
    clock[0] += 12
    assert "loading llava-1.5-7b, 12 s" in drawn(view)
    view.begin("m/a/gqa", 0)
    view.count("m/a/gqa", 8)
    clock[0] += 0.01
    assert "m/a/gqa: 8 of 100 samples\n" in drawn(view), "8 samples in 10 ms say nothing about the speed"
    view.end("m/a/gqa", 50.0)
    clock[0] += 3
    assert "preparing the next cell, 3 s" in drawn(view)


def test_what_was_done_before_takes_no_time(clock: list[float]) -> None:
    view = LiveView(2, {"m/a/gqa": 100, "m/b/gqa": 100})
    view.end("m/a/gqa", 50.0)
    assert view.seconds_left() is None
    view.begin("m/b/gqa", 0)
    clock[0] += 5
    view.count("m/b/gqa", 50)
    assert view.seconds_left() == pytest.approx(5)


def test_a_long_table_shows_its_last_rows(clock: list[float]) -> None:
    view = LiveView(50, {})
    for number in range(50):
        view.end(f"m/row{number}/gqa", float(number))
    shown = drawn(view, height=16)
    assert "row49" in shown and "row39 " not in shown
    assert len(shown.splitlines()) < 16


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (240, "4 min"), (5400, "1 h 30 min"), (7500, "2 h 05 min")]
)
def test_a_duration_in_words(seconds: Any, text: str) -> None:
    assert duration(seconds) == text
