from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evals import report
from evals.report.files import csv_cell, csv_text, json_text
from hidrop.errors import UserError
from hidrop.visible import UNSEEN


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


@pytest.mark.parametrize(
    "name",
    [
        "=1+1",
        "+x",
        "-x",
        "@SUM(A1)",
        "  =1",
        "\t=1",
        "\r=1",
        "\n=1",
        "\uff1d1",
        '=HYPERLINK("http://x","y")',
        "=cmd|' /C'!A0",
    ],
)
def test_no_cell_of_the_csv_file_is_a_formula(name: str, document: dict[str, Any]) -> None:
    for cell in document["cells"]:
        cell["label"] = cell["group"] = f"{name} {cell['label']}"
        cell["model"], cell["task"] = name + cell["model"], name + cell["task"]
    lines = list(csv.reader(csv_text(document).splitlines()))
    texts = [cell for line in lines for cell in line]
    assert any(cell.startswith(("'", "\\x0d")) for cell in texts)
    for cell in texts:
        assert cell.lstrip()[:1] not in tuple("=+-@\uff1d") or float(cell) == float(cell), cell


def test_numbers_stay_numbers_in_the_csv_file() -> None:
    for value in (-1.5, 3, None, "-1.5", "+2", "-1e-5", "11%", "-.5", "failed", "fastv-25%"):
        assert csv_cell(value) == value
    assert [csv_cell(text) for text in ("-", "-x", "-1-1", "+1+cmd", "=1")] == ["'-", "'-x", "'-1-1", "'+1+cmd", "'=1"]


def test_nothing_in_a_name_acts_on_what_shows_it(document: dict[str, Any], tmp_path: Path) -> None:
    evil = "\x1b[31m\x9b2J\u202egnp.\x00\u2028|`<b>**$\\input{x}%&\x85\r\n\\end{table}"
    document["matrix"] = evil
    for cell in document["cells"]:
        cell["label"] = cell["group"] = evil + cell["label"]
    document["failed"][0]["error"] = document["command"] = evil
    document["hardware"]["cpu"] = evil
    report.write(document, tmp_path)
    shown = io.StringIO()
    report.show(document, shown)
    console = io.StringIO()
    Console(file=console, width=200).print(report.render_table(document))
    written = {path.suffix: path.read_bytes().decode() for path in sorted(tmp_path.iterdir())}
    for kind, text in {**written, "plain": shown.getvalue(), "terminal": console.getvalue()}.items():
        assert not UNSEEN.search(text), kind
    assert json.loads(written[".json"])["matrix"] == evil
    body = [line for line in written[".tex"].splitlines() if not line.startswith("%")]
    assert not any("\\input" in line or "\\end{table}\\" in line for line in body)
    assert "\n".join(body).count("\\end{table}") == "\n".join(body).count("\\begin{table}") == 2
    tables = [line for line in written[".md"].splitlines() if line.startswith("|")]
    assert "<b>" not in written[".md"].replace("\\<b>", "") and len(tables) > 4
    width = {line.replace("\\|", "").count("|") for line in tables[: 2 + len(document["cells"]) // 2]}
    assert len(width) == 1, "a name adds no column"
