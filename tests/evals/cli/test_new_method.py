"""new-method writes files, and says what comes next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evals.cli import main


def test_it_writes_two_files_and_prints_the_line_of_a_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-method", "my_method"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("written: my_method.py, test_my_method.py\n")
    assert "   pytest test_my_method.py\n" in printed
    assert 'my_method: {name: "./my_method.py:MyMethod", budget: "11%"}' in printed
    assert {path.name for path in tmp_path.iterdir()} == {"my_method.py", "test_my_method.py"}


def test_a_matrix_takes_the_printed_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new-method", "attended"]) == 0
    [entry] = [line.strip() for line in capsys.readouterr().out.splitlines() if "budget" in line]
    head = "models: {m: {source: 'mini:vanilla'}}\ntasks: {gqa: {data: mini}}\nprotocol: lmms-eval\n"
    (tmp_path / "own.yaml").write_text(
        f"{head}methods:\n  vanilla: {{}}\n  {entry}\n".replace("11%", "25%")
    )  # 12 layers
    assert main(["plan", "own.yaml"]) == 0
    assert "attended" in capsys.readouterr().out


def test_the_document_has_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-method", "norms", "--out", str(tmp_path / "new"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["written"] == [str(tmp_path / "new/norms.py"), str(tmp_path / "new/test_norms.py")]
    assert document["method"] == "norms"
    assert document["entry"] == 'norms: {name: "./norms.py:Norms", budget: "11%"}'


def test_a_bad_name_is_something_for_the_user_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-method", "fastv"]) == 2
    assert capsys.readouterr().err == "fastv: hidrop has a method of this name. Choose another one\n"
