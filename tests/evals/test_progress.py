import io

from rich.console import Console

from evals.progress import Progress

ENTRY = {"metric": "exact_match", "value": 61.25, "n": 40, "n_failed": 1}


def told(terminal=False, every=15.0):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with Progress(console, 3) as progress:
        progress.every_seconds = every
        progress.model("mini")
        progress.started("mini/[a]/gqa", 0)
        for _ in range(40):
            progress.samples("mini/[a]/gqa", 1)
        progress.finished("mini/[a]/gqa", ENTRY, earlier=False)
        progress.finished("mini/b/gqa", ENTRY, earlier=True)
        progress.failed("mini/c/gqa", "RuntimeError: [x]")
    return console.file.getvalue()


def test_a_pipe_gets_one_plain_line_for_each_cell():
    assert told().splitlines() == [
        "[1/3] mini/[a]/gqa: exact_match 61.25 on 40, 1 failed",
        "[2/3] mini/b/gqa: exact_match 61.25 on 40, 1 failed (from an earlier run)",
        "[3/3] mini/c/gqa: failed: RuntimeError: [x]",
    ]


def test_a_pipe_hears_of_a_long_cell_now_and_then():
    lines = told(every=-1.0).splitlines()
    assert len(lines) == 43 and lines[39].startswith("[1/3] mini/[a]/gqa: 40 samples, ")


def test_a_terminal_gets_a_live_line_and_the_same_results():
    shown = told(terminal=True)
    assert "[2/3] mini/b/gqa: exact_match 61.25" in shown and "\x1b[" in shown
