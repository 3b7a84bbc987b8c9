"""The app: its help, its suggestions, its version, shell completion, and how quickly it is there."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from evals.cli import main
from evals.cli.app import BUNDLED, build, parse

ROOT = Path(__file__).parents[3]
COMMANDS = list(build().commands)


@pytest.mark.parametrize("line", [["--help"], ["run", "--help"], ["analyze", "-h"], ["--version"], []])
def test_help_loads_no_heavy_library(line: list[str]) -> None:
    code = (
        "import sys\nfrom evals.cli import main\nmain(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'lmms_eval', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, *line], check=True, cwd=ROOT, capture_output=True)


def test_the_help_lists_every_command_in_its_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    panels = [line.strip("╭─╮ ") for line in lines if line.startswith("╭")]
    assert panels[:5] == ["Options", "Run a matrix", "Methods", "Tasks", "Measure speed"]
    assert panels[5:] == ["Analyze", "Make a model", "Write a method", "Use results", "Check results"]
    listed = [line.split()[1] for line in lines if line.startswith("│ ") and line.split()[1] in COMMANDS]
    assert listed == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_help_that_fits_and_an_example_that_parses(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert all(option in shown for option in ("--json", "--quiet", "--help"))
    example = build().commands[name].epilog
    assert example.startswith(f"Example: run.py {name}")
    assert "".join(example.split()) in "".join(shown.split())
    assert callable(parse(shlex.split(example)[2:]))


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [
        (["vaildate", "mini"], "run.py: no such command 'vaildate'. Did you mean 'validate'"),
        (["run", "mini", "--limt", "3"], "run.py run: no such option: --limt. Did you mean '--limit'?"),
        (["--matrx", "mini"], "run.py run: no such option: --matrx. Did you mean '--matrix'?"),
        (["mini"], "run.py: no such command 'mini'. `run.py run mini` runs the matrix"),
        (["bench", "--dtype", "half"], "'half' is not one of 'float32', 'float16', 'bfloat16'"),
        (["run", "mini", "--limit"], "run.py run: option '--limit' requires an argument"),
    ],
)
def test_a_mistake_is_answered_with_what_was_meant(
    line: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == 2
    assert suggestion in capsys.readouterr().err


def test_the_bundled_matrices_in_the_help_are_those_that_ship() -> None:
    assert set(BUNDLED) == {path.stem for path in (ROOT / "evals/matrix/bundled").glob("*.yaml")}


def test_an_installed_user_sees_the_installed_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/hidrop", "plan", "--help"])
    assert main() == 0
    assert "Usage: hidrop plan" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["/usr/bin/hidrop", "plna"])
    assert main() == 2
    assert "hidrop: no such command 'plna'. Did you mean 'plan'" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"1.2.3 of {name}")
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "hidrop 1.2.3 of hidrop\n"


@pytest.mark.parametrize(("words", "completed"), [("hidrop va", "validate"), ("hidrop plan --li", "--limit")])
def test_a_shell_completes_commands_and_options(words: str, completed: str) -> None:
    code = "import sys; sys.argv = ['hidrop']; from evals.cli import main; main()"
    asked = {"_HIDROP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [completed]


def test_completion_is_installed_for_the_command_and_not_for_the_script() -> None:
    """`python run.py` cannot be completed: the shell sees the name `python`."""
    command = f"{shlex.quote(sys.executable)} run.py --show-completion; true"  # bash stays the parent, and is detected
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "complete -o default -F _hidrop_completion hidrop" in done.stdout
