"""What all commands do with their options: where text goes, and how numbers are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.cli import main
from evals.cli.options import Options, average_tokens, command_line, integers
from hidrop.errors import UserError
from hidrop.geometry import PRESETS


@pytest.mark.parametrize(
    ("given", "out", "err"),
    [
        ({}, "table\n", "reading ...\n"),
        ({"json": True}, '{"answer": "\u00e4"}\n', "reading ...\ntable\n"),
        ({"quiet": True}, "", ""),
        ({"json": True, "quiet": True}, '{"answer": "\u00e4"}\n', ""),
    ],
)
def test_with_json_stdout_has_the_document_alone_and_with_quiet_text_goes_nowhere(
    given: dict[str, bool], out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Options(**given)
    options.loading("reading")
    options.say("table")
    options.document({"answer": "\u00e4"})
    assert capsys.readouterr() == (out, err)


def test_numbers_are_read_from_a_list_with_commas() -> None:
    assert integers("--batch", "1, 4,16", "1,4") == (1, 4, 16)


@pytest.mark.parametrize("text", ["", "x", "1,", "0", "-1", "1.5"])
def test_a_list_with_something_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError) as caught:
        integers("--batch", text, "1,4")
    assert str(caught.value) == f"--batch takes whole numbers of 1 or more, such as 1,4 (got {text})"


def test_a_budget_of_the_command_line_is_tokens_or_a_share() -> None:
    geometry = PRESETS["llava-1.5-7b"]
    assert average_tokens("64", geometry) == 64 and average_tokens("25%", geometry) == 144
    with pytest.raises(UserError, match="--budget: a budget is a number of visual tokens"):
        average_tokens("64 tokens", geometry)


def test_documents_say_what_the_user_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/hidrop", "run", "my matrix.yaml"])
    assert command_line() == "hidrop run 'my matrix.yaml'"


@pytest.mark.parametrize("command", [["train", "mini-hidrop"], ["ablate"], ["bench"], ["bench-train"]])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = (
        "hidrop.recipes.train",
        "evals.ablations.runs.train_missing",
        "evals.bench.run.bench_point",
        "evals.bench.training.measure",
    )
    for name in work:
        monkeypatch.setattr(name, lambda *given, **options: pytest.fail("the work began"))
    file = tmp_path / "file"
    file.write_text("")
    assert main([*command, "--out", str(file / "below")]) == 2
    assert f"--out {file / 'below'}: {file} is a file, not a folder" in capsys.readouterr().err
