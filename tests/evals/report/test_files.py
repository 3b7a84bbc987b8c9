from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from evals import report
from evals.report.files import json_text
from hidrop.errors import UserError


def test_four_files_are_written_into_a_new_folder(document: dict[str, Any], tmp_path: Path) -> None:
    paths = report.write(document, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == [f"leaderboard.{kind}" for kind in ("md", "csv", "tex", "json")]
    assert sorted((tmp_path / "new" / "folder").iterdir()) == sorted([*paths, tmp_path / "new" / "folder" / ".lock"])


def test_the_json_file_is_the_document(document: dict[str, Any], tmp_path: Path) -> None:
    report.write(document, tmp_path)
    assert json.loads((tmp_path / "leaderboard.json").read_text()) == document


def test_json_has_null_where_a_number_is_not_finite(document: dict[str, Any]) -> None:
    document["cells"][0] |= {"value": math.nan, "seconds": math.inf, "extra": (1, [-math.inf])}

    def refuse(token: str) -> None:
        raise AssertionError(token)

    read = json.loads(json_text(document), parse_constant=refuse)["cells"][0]
    assert read["value"] is None and read["seconds"] is None and read["extra"] == [1, [None]]


def test_json_can_be_one_line(document: dict[str, Any]) -> None:
    assert json_text(document, indent=None).count("\n") == 1


def test_csv_has_one_line_per_row_in_plain_units(document: dict[str, Any], tmp_path: Path) -> None:
    report.write(document, tmp_path)
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["label"] for line in lines] == ["vanilla", "fastv-7", "random-7", "hidrop"]
    fastv, hidrop = lines[1], lines[3]
    assert (fastv["gqa"], fastv["pope"], fastv["trained"], fastv["budget"]) == ("60.0", "70.0", "false", "7")
    assert (hidrop["gqa"], hidrop["pope"], hidrop["trained"], hidrop["percent_of_vanilla"]) == (
        "78.04",
        "failed",
        "true",
        "",
    )
    assert int(fastv["flops"]) == document["cells"][2]["flops"]
    assert float(fastv["prefill_ms_median"]) == pytest.approx(10.0 * document["cells"][2]["share"])


def test_written_again_the_files_are_the_same_bytes(document: dict[str, Any], tmp_path: Path) -> None:
    first = [path.read_bytes() for path in report.write(document, tmp_path)]
    assert [path.read_bytes() for path in report.write(document, tmp_path)] == first


def test_a_full_disk_leaves_the_old_table_and_is_the_users_error(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.write(document, tmp_path)
    old = (tmp_path / "leaderboard.md").read_bytes()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        report.write({**document, "matrix": "other"}, tmp_path)
    assert (tmp_path / "leaderboard.md").read_bytes() == old


def test_a_folder_that_cannot_be_made_is_the_users_error(document: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .Not a directory.*--out"):
        report.write(document, tmp_path / "file" / "sub")
