"""Exit codes and errors of all commands: in words on stderr, with --json as one document that ends stdout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evals.cli import main
from evals.cli.app import build
from evals.cli.exit_codes import DONE, INTERRUPTED, USER

ROOT = Path(__file__).parents[3]
# For each command a command line with something that the user has to change, and what it is called in the error.
WRONG = {
    "run": (["nowhere.yaml"], "nowhere.yaml: no such file"),
    "retry": (["smoke", "--out", "nowhere"], "nothing failed in the last run"),
    "plan": (["smoke", "--cost", "nowhere"], "`run.py bench` writes one"),
    "validate": (["smoke", "--only", "nothing"], "--only nothing: matches no cell"),
    "throughput": (["nowhere.yaml"], "nowhere.yaml: no such file"),
    "methods": (["nosuchmethod"], "unknown method 'nosuchmethod'"),
    "tasks": (["--grep", "nosuchtask"], "no task with this text"),
    "score": (["nowhere", "--judge", "x"], "give one of --judgements"),
    "bench": (["--geometry", "nowhere"], "--geometry nowhere: unknown"),
    "bench-train": (["--text", "3"], "--text takes whole numbers of 8 or more, such as 60,200 (got 3)"),
    "analyze": (["--model", "mini:nowhere"], "model 'mini:nowhere': unknown"),
    "ablate": (["nowhere"], "nowhere"),
    "train": (["nowhere"], "recipe 'nowhere'"),
    "convert": (["nowhere", "new"], "model 'nowhere'"),
    "new-method": (["fastv"], "fastv: hidrop has a method of this name"),
    "report": (["nowhere"], "`run.py run MATRIX --out nowhere` writes it"),
    "ls": (["nowhere"], "nowhere: no results folders and no files of bench here"),
    "view": (["nowhere"], "nowhere: not a folder"),
    "compare": (["nowhere", "elsewhere"], "cannot be read"),
    "export": (["nowhere"], "cannot be read"),
    "doctor": (["nowhere"], "nowhere: no such folder"),
    "agree": (["--answers", "nowhere", "--run", "elsewhere"], "elsewhere"),
    "export-tasks": (["new", "--data", "nowhere"], "gqa: no data in 'nowhere'"),
    "reference": (["--task", "gqq"], "Did you mean 'gqa'?"),
    "verify": (["nowhere"], "nowhere: not a results folder"),
}


def test_every_command_has_a_wrong_command_line_here() -> None:
    assert list(build().commands) == list(WRONG)


@pytest.mark.parametrize("command", WRONG)
def test_an_error_of_any_command_is_one_json_document_on_stdout(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line, message = WRONG[command]
    assert main([command, *line, "--json"]) == USER
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert message in document["error"] and document["problems"] == document["error"].splitlines()
    assert document["error"] in printed.err and "Traceback" not in printed.err
    assert main([command, *line, "--quiet"]) == USER
    quiet = capsys.readouterr()
    assert (quiet.out, quiet.err) == ("", document["error"] + "\n")


@pytest.mark.parametrize("line", [["--limit", "0"], ["plan", "mini", "--limit", "x"], ["unknown"], ["train"]])
def test_wrong_usage_exits_with_2_and_says_where_help_is(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line, "--json"]) == USER
    printed = capsys.readouterr()
    assert "--help` lists what it takes" in printed.err
    assert json.loads(printed.out)["error"] + "\n" == printed.err


def test_no_arguments_print_the_help_and_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == USER
    assert "Usage: run.py" in capsys.readouterr().out


def test_the_command_line_of_the_process_is_the_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/hidrop", "plan", "nowhere"])
    assert main() == USER
    assert "nowhere: no such file" in capsys.readouterr().err


def test_an_interrupt_says_how_to_continue(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evals.run.matrix_run.run_matrix", interrupted)
    assert main(["--matrix", "smoke", "--json"]) == INTERRUPTED
    printed = capsys.readouterr()
    assert (
        "Run the same command again" in printed.err and "Run the same command again" in json.loads(printed.out)["error"]
    )


def test_a_package_that_is_not_installed_is_named_with_the_command_that_gets_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in [name for name in sys.modules if name.startswith("evals.cli.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "typer", None)  # type: ignore[arg-type]
    assert main(["plan", "mini"]) == USER
    assert "package typer is not installed. Get it: pip install 'typer" in capsys.readouterr().err


def test_a_module_of_our_own_that_is_missing_is_no_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "evals.matrix.resolve", None)  # type: ignore[arg-type]
    with pytest.raises(ModuleNotFoundError, match=r"evals\.matrix\.resolve"):
        main(["plan", "mini"])


def test_a_reader_that_stops_reading_is_no_error() -> None:
    command = [sys.executable, "run.py", "plan", "paper"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    told = process.stderr.read()
    assert process.wait(60) == DONE and "Error" not in told and "Exception" not in told


@pytest.mark.parametrize("line", [["--help"], ["run", "--help"], ["--version"], ["nonsense"], ["ls", "results"]])
def test_no_command_complains_about_a_reader_that_stops(line: list[str]) -> None:
    """As in `run.py --help | head -1`."""
    command = [sys.executable, "run.py", *line]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    told = process.stderr.read()
    assert process.wait(60) == (USER if line == ["nonsense"] else DONE)
    assert "Error" not in told and "Exception" not in told
