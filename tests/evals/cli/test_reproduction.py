"""The commands for a reviewer: what is published."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evals.cli import main
from evals.report.reference import available, load_reference


def asked(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[str, dict[str, Any]]:
    """The text and the document of `reference`."""
    assert main(["reference", *line, "--json"]) == 0
    captured = capsys.readouterr()
    return captured.err, json.loads(captured.out.splitlines()[-1])


def test_published_numbers_have_their_source_budget_and_setting(capsys: pytest.CaptureFixture[str]) -> None:
    text, found = asked(capsys, "--task", "gqa", "--method", "fastv", "--model", "llava-1.5-7b")
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "fastv 306 PDrop Tab. 1 59.4 (K=2, R=50 %)" in rows
    assert "fastv 64 ~81.2 SparseVLM Tab. 1 46.1" in rows
    assert "fastv 64 ? HiDrop 48.8" in rows
    assert "GQA: accuracy on testdev_balanced, 0 to 100" in rows
    assert "fastv k2-50% llava-1.5-7b 306.00 layer: 2, keep: 288" in rows
    (model,) = found["models"]
    assert {entry["method"] for entry in model["entries"]} == {"fastv"}
    assert all(list(entry["scores"]) == ["gqa"] for entry in model["entries"])
    assert {entry["source"] for entry in model["entries"]} == set(model["sources"])
    assert found["runs"] == {}  # of pope and scienceqa_img only


def test_everything_that_is_published_is_listed_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    text, found = asked(capsys, "--all")
    assert max(len(line) for line in text.splitlines() if "http" not in line) <= 80
    entries = {one["model"]: len(one["entries"]) for one in found["models"]}
    assert entries == {name: len(load_reference(name).entries) for name in available()}


def test_without_a_filter_it_prints_what_there_is_on_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    text, found = asked(capsys)
    lines = text.splitlines()
    assert len(lines) <= 26 and max(map(len, lines)) <= 80
    rows = {words[0]: int(words[1]) for line in lines if len(words := line.split()) == 5 and words[1].isdigit()}
    assert rows == {one["model"]: len(one["entries"]) for one in found["models"]}
    assert lines[0].startswith(f"Published numbers: {sum(rows.values())} rows from ")
    assert "--method fastv --task gqa`" in text and "`--all` for everything" in text
    assert all(name in text for one in found["models"] for name in one["scores"])
    assert found == asked(capsys, "--all")[1], "--json is complete in any case"


def test_the_runs_with_public_answers_are_listed_with_their_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    _, found = asked(capsys, "--task", "pope", "--method", "hidrop")
    assert "hidrop-64" in found["runs"] and "vanilla" not in found["runs"]
    assert asked(capsys, "--task", "pope", "--model", "llava-1.5-13b")[1]["runs"] == {}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["--task", "gqqa"], "--task gqqa: unknown. Did you mean 'gqa'? There are numbers of "),
        (["--method", "fastvv"], "--method fastvv: unknown. Did you mean 'fastv'?"),
        (["--model", "llava-1.5-7"], "--model llava-1.5-7: unknown. Did you mean 'llava-1.5-7b'?"),
        (["--method", "random"], "--method random: no published numbers of it are known. There are"),
        (
            ["--model", "qwen2.5-vl-32b", "--method", "dart"],
            "nothing is published for these together. Leave one out, such as `run.py reference --model qwen2.5-vl-32b`",
        ),
    ],
)
def test_a_name_without_published_numbers_is_refused_with_those_that_have_some(
    line: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reference", *line]) == 2
    assert message in capsys.readouterr().err
