"""One page of several runs: the rows of all, each number as its own run found it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from evals.bench.figures import TITLES
from evals.cli import main
from evals.report import page
from evals.report.rows import rows_of
from evals.report.several import Run, captions, merged, runs_of
from evals.store.folders import read_document
from hidrop.errors import UserError
from tests.evals.report.conftest import make_document
from tests.evals.report.test_page import data_of


@pytest.fixture(scope="module")
def both(little: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The page of a run and of a second run with the same cells, and the second run."""
    out, second = tmp_path_factory.mktemp("both"), tmp_path_factory.mktemp("runs") / "second"
    shutil.copytree(little, second)
    assert main(["report", str(little), str(second), "--out", str(out), "--samples", "4", "--quiet"]) == 0
    return out / page.NAME, second


def test_a_page_of_two_runs_has_the_rows_and_samples_of_both(little: Path, both: tuple[Path, Path]) -> None:
    text, alone = both[0].read_text(), data_of(page.html(read_document(little), little, samples=4))
    data = data_of(text)
    assert len(data["cells"]) == 2 * len(alone["cells"]) == len(data["identities"])
    for name in (little.name, "second"):
        cell = data["cells"][f"plain@{name}/fastv/gqa"]
        assert cell["base"] == f"plain@{name}/vanilla/gqa"
        assert cell["stats"] == alone["cells"]["plain/fastv/gqa"]["stats"]
    (sample, *_), (own, *_) = data["tasks"]["gqa"], alone["tasks"]["gqa"]
    assert sample["question"] == own["question"]
    answers = [sample["answers"][f"plain@{name}/fastv/gqa"] for name in (little.name, "second")]
    assert answers[0] == answers[1] == own["answers"]["plain/fastv/gqa"]
    assert "each difference is from the vanilla of the same run" in text
    assert set(data["made"]) == {little.name, "second"}
    assert f"{little.name} + second: hidrop</title>" in text


def test_several_runs_need_a_place_and_are_not_written_over_another_page(
    little: Path, both: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    second = str(both[1])
    assert main(["report", str(little), second]) == 2
    assert "say where with --out DIR" in capsys.readouterr().err
    assert main(["report", str(little), str(little), "--out", str(tmp_path)]) == 2
    assert "given twice" in capsys.readouterr().err
    (tmp_path / page.NAME).write_text("<title>mine: hidrop</title>")
    assert main(["report", str(little), second, "--out", str(tmp_path)]) == 2
    assert "it is the page of another run" in capsys.readouterr().err
    assert main(["report", str(little), second, "--out", str(both[0].parent), "--quiet"]) == 0, (
        "its own page is replaced"
    )


BENCH = Path("results/bench")
TIMED, TRAINED = (
    BENCH / "llava-1.5-7b-bfloat16-nvidia-h200.json",
    BENCH / "train-bench-400m-float32-amd-epyc-2-threads.json",
)


def test_files_of_bench_have_a_section_of_their_own_for_each_machine(
    little: Path, both: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, one = tmp_path / "alone", tmp_path / "one"
    (folder := tmp_path / "timed").mkdir()
    for path in (TIMED, TRAINED):
        shutil.copy(path, folder)
    assert main(["report", str(folder), "--out", str(alone), "--quiet"]) == 0
    assert main(["report", str(little), str(folder), "--out", str(one), "--samples", "2", "--quiet"]) == 0
    assert main(["report", str(little), str(both[1]), str(TIMED), "--out", str(tmp_path / "three"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["bench"] == [str(TIMED)] and set(printed["runs"]) == {little.name, "second"}
    for out in (alone, one, tmp_path / "three"):
        text = (out / page.NAME).read_text()
        _, section = text.split('<section id="speed"')
        section, *_ = section.split("</section>")
        assert "NVIDIA H200" in section and "torch 2.11.0" in section and TIMED.name in section
        assert "llava-1.5-7b in bfloat16, 2026-11-27" in section and "<td>hidrop (captured)</td>" in section
        assert TITLES["possible"] in section
        trained = out != tmp_path / "three"
        assert section.count("<h3>") == 1 + trained and ("Training steps of bench-400m" in section) == trained
    assert data_of((one / page.NAME).read_text())["tasks"], "the samples of the run are there too"
    assert main(["report", str(folder), "--out", str(alone), "--quiet"]) == 0, "its own page is replaced"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "x.json: not JSON"),
        ('{"schema": 2, "kind": "study"}', "x.json: not a file of the command bench, but a file of kind 'study'"),
        ('{"schema": 2, "kind": "training"}', "x.json: not a file of the command bench-train: "),
        ("[1]", "x.json: not a file of the command bench: it has no schema number. `"),
    ],
)
def test_what_is_no_file_of_bench_is_refused_before_anything_is_written(
    content: str, problem: str, little: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bad := tmp_path / "x.json").write_text(content)
    out = tmp_path / "out"
    for places in ([tmp_path], [little, bad], [TIMED, bad]):
        assert main(["report", *map(str, places), "--out", str(out)]) == 2
        assert problem in capsys.readouterr().err
    assert not out.exists()


def test_files_of_bench_are_refused_where_they_do_not_belong(
    little: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, out = str(TIMED), ["--out", str(tmp_path / "out")]
    for line, problem in (
        ([str(little / "leaderboard.json"), place, *out], f"Name the folder: {little}"),
        ([place, str(BENCH), *out], f"{place}: given twice"),
        ([place, str(TRAINED)], "say where with --out DIR"),
        ([place, str(TRAINED), *out, "--samples", "3"], "--samples is for results folders"),
        ([place, "none.json", *out], "none.json: cannot be read"),
    ):
        assert main(["report", *line]) == 2
        assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / page.NAME).write_text("<title>mine: hidrop</title>")
    assert main(["report", place, str(TRAINED), "--out", str(tmp_path)]) == 2
    assert "it is the page of another run" in capsys.readouterr().err


def test_runs_whose_scores_cannot_be_compared_are_refused() -> None:
    one, folders = make_document(), [Path("a/x"), Path("b/x")]
    assert [run.name for run in runs_of(folders, [one, one])] == ["a:x", "b:x"]
    assert [run.name for run in runs_of([Path("my run"), Path("b")], [one, one])] == ["my_run", "b"]
    with pytest.raises(UserError, match=r"a/x, b/x: GQA was asked under different protocols \(llava / lmms-eval\)"):
        runs_of(folders, [one, {**one, "protocol": "lmms-eval"}])
    with pytest.raises(UserError, match=r"budgets have different meanings \(average / kept\)"):
        runs_of(folders, [one, {**one, "budget_reading": "kept"}])
    other = json.loads(json.dumps(one))
    for cell in other["cells"]:
        cell["metric"] = "mine"
    with pytest.raises(UserError, match=r"GQA has different metrics \(exact_match / mine\)"):
        runs_of(folders, [one, other])


def test_only_tasks_of_all_runs_are_shown_so_that_means_are_of_the_same_tasks() -> None:
    one: Any = make_document()
    other = {**one, "cells": [cell for cell in one["cells"] if cell["task"] == "gqa"], "failed": []}
    runs = [Run("a", Path("a"), one), Run("b", Path("b"), other)]
    whole = merged(runs)
    assert {cell["task"] for cell in whole["cells"]} == {"gqa"} and whole["failed"] == []
    shown = {row.model: row.percent_of_vanilla for row in rows_of(whole) if row.label == "fastv-7"}
    assert shown == {"mini@a": 75.0, "mini@b": 75.0}
    assert "without POPE of a" in captions(runs)[0][1]
    with pytest.raises(UserError, match="a, b: no task is in all of them"):
        runs_of([Path("a"), Path("b")], [one, {**other, "cells": [], "failed": []}])


def test_what_differs_between_the_runs_is_said() -> None:
    one: Any = make_document()
    other = {
        **one,
        "limit": 100,
        "hardware": {**one["hardware"], "cpu": "Another"},
        "date": "2027-01-01T00:00:00+00:00",
    }
    runs = [Run("a", Path("a"), one), Run("b", Path("b"), other)]
    topic, text = captions(runs)[0]
    assert topic == "Several runs"
    assert "times are of different machines" in text and "samples of each task: a: all, b: 100" in text
    assert captions(runs[:1] * 2)[0][1] == "each difference is from the vanilla of the same run"
    whole = merged(runs)
    assert whole["date"] == other["date"] and whole["matrix"] == "a + b" and "command" not in whole
    assert {cell["model"] for cell in whole["cells"]} == {f"{m}@{r}" for m in ("mini", "mini-hidrop") for r in "ab"}
    assert len(whole["failed"]) == 2 and set(whole["sources"]) == {cell["model"] for cell in whole["cells"]}


def test_correlations_are_of_the_rows_of_their_own_run() -> None:
    entry = {"task": "gqa", "rows": ["mini/vanilla", "mini/fastv-7"], "upper": [[0.5], []]}
    document = make_document(correlations=[entry])
    found = merged(runs_of([Path("one"), Path("two")], [document, document])).get("correlations", [])
    assert [one["rows"] for one in found] == [
        ["mini@one/vanilla", "mini@one/fastv-7"],
        ["mini@two/vanilla", "mini@two/fastv-7"],
    ]
