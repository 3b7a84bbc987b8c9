"""`bench --suite gpu`: parts in processes with limits, and what is printed of them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from evals import cli
from evals.bench import suite
from evals.bench.suite import Part


def test_a_part_that_fails_or_hangs_leaves_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [
        Part("works", ("-c", "print('measured')"), 60),
        Part("breaks", ("-c", "raise SystemExit(2)"), 60),
        Part("misses", ("-c", "raise SystemExit(1)"), 60),
        Part("hangs", ("-c", "import time; time.sleep(99)"), 2),
        Part("needs", ("-c", "1"), 60, ("no_such_package",)),
        Part("reads", ("-c", "1"), 60, (), (tmp_path / "nowhere",)),
    ]
    monkeypatch.setattr(suite, "gpu", lambda out, own: parts)
    started = time.monotonic()
    assert cli.main(["bench", "--suite", "gpu", "--out", str(tmp_path), "--json"]) == 1
    assert time.monotonic() - started < 60
    document = json.loads(capsys.readouterr().out)
    results = {part["part"]: part["result"] for part in document["parts"]}
    assert results == {
        "works": "done",
        "breaks": "FAILED (exit code 2)",
        "misses": "FAILED (bars missed, or cells or tests failed)",
        "hangs": "time was up after 2 s",
        "needs": "skipped: no_such_package not installed",
        "reads": f"skipped: {tmp_path / 'nowhere'} not here; it is in a checkout of hidrop",
    }
    (log,) = tmp_path.glob("gpu-*/works.log")
    assert log.read_text() == "measured\n"


@pytest.mark.parametrize("end", ["time.sleep(99)", "sys.exit(3)"], ids=["hangs", "leaves its child behind"])
def test_a_process_and_those_it_started_are_ended(end: str, tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']); "
        "print(child.pid, flush=True); END"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suite, "ENDING", 0.2)
        (found,) = suite.run([Part("stubborn", ("-c", code.replace("END", end)), 3)], tmp_path, lambda text: None)
    assert found.failed and found.log is not None
    child = int(found.log.read_text())
    with pytest.raises(ProcessLookupError):
        for _ in range(50):
            os.kill(child, 0)
            if Path(f"/proc/{child}/stat").read_text().split(") ")[1][0] == "Z":  # nobody reaped it yet
                raise ProcessLookupError
            time.sleep(0.1)


def test_the_dry_run_takes_commands_that_exist(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Each command line of both suites is parsed; an unknown option or value would be an error."""
    from evals.cli.app import parse
    from evals.cli.bench import asked_for

    for part in [*suite.gpu(tmp_path, tmp_path), *suite.dry_run(tmp_path, tmp_path)]:
        if part.arguments[:2] == suite.HIDROP:
            ready = parse(list(part.arguments[2:]))
            if part.arguments[2] == "bench":
                asked_for(ready.args[0])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "gpu", "--methods", "fastv"], "--suite: has settings of its own. Leave out --methods"),
        (["--suite", "gpu", "--device", "cpu"], "--suite: has settings of its own. Leave out --device"),
        (["--suite", "gpu", "--grow"], "--suite: has settings of its own. Leave out --grow"),
        (["--grow", "--model", "mini:vanilla"], "--grow: has settings of its own. Leave out --model"),
        (["sweep.yaml", "--grow"], "--grow: has settings of its own. Leave out FILE"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", *arguments]) == 2
    assert capsys.readouterr().err.startswith(message)


def test_a_dry_run_without_a_suite_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--dry-run"]) == 2
    assert "--dry-run: belongs to --suite" in capsys.readouterr().err
