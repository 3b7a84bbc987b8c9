"""Commands on results folders: what they print as JSON, and nothing with --quiet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals import report
from evals.cli import main
from tests.evals.world import World


@pytest.fixture
def folder(go: Any, tmp_path: Path) -> Path:
    report.write(go(World()), tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("line", "said", "key"),
    [
        (["report", "OUT", "--tables"], "Results: tiny", "cells"),
        (["ls", "OUT"], "done", "folders"),
        (["compare", "OUT", "OUT"], "6 cells in both", "cells"),
        (["export", "OUT"], "written: ", "written"),
        (["doctor", "OUT"], "nothing is damaged", "damaged"),
    ],
)
def test_results_are_text_or_one_json_document_or_nothing(
    line: list[str], said: str, key: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [str(folder) if word == "OUT" else word for word in line]
    assert main(line) == 0
    assert said in capsys.readouterr().out
    assert main([*line, "--json"]) == 0
    printed = capsys.readouterr()
    assert key in json.loads(printed.out) and said in printed.err
    assert main([*line, "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_export_lists_the_files_it_wrote(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(folder), "--json"]) == 0
    paths = json.loads(capsys.readouterr().out)["written"]
    assert paths and all(Path(path).is_file() for path in paths)
    assert {Path(path).parent for path in paths} == {folder / "export"}


def test_damage_is_an_error_even_with_quiet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "leaderboard.json").write_text("{")
    assert main(["doctor", str(folder), "--quiet"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(f"{folder / 'leaderboard.json'}: ")
