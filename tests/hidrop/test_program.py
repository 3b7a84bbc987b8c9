"""The name of the program in hints: what the user typed to start it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hidrop import program as own

PATHS = [
    ("/usr/bin/hidrop", "hidrop"),
    ("hidrop.exe", "hidrop"),
    ("/site-packages/hidrop/__main__.py", "python -m hidrop"),
]


@pytest.mark.parametrize(("started", "shown"), PATHS)
def test_hints_name_the_command_that_was_started(monkeypatch: pytest.MonkeyPatch, started: str, shown: str) -> None:
    monkeypatch.setattr("sys.argv", [started, "plan", "mini"])
    assert own.program() == shown
    assert own.torchrun(4) == "torchrun --nproc_per_node=4 -m hidrop"


@pytest.mark.parametrize("argv", [["run.py"], ["/elsewhere/lmms_eval/__main__.py"], []])
def test_other_processes_name_the_script_in_a_checkout_and_else_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, argv: list[str]
) -> None:
    monkeypatch.setattr("sys.argv", argv)
    assert own.program() == "run.py"
    assert own.torchrun("N") == "torchrun --nproc_per_node=N run.py"
    monkeypatch.setattr(own, "SCRIPT", tmp_path / "run.py")
    assert own.program() == "hidrop"
