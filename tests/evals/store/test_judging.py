"""Scores that a judge gives later: what is compared, what is refused, and what an interruption leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from evals.cli import main
from evals.cli.exit_codes import INTERRUPTED
from evals.store import document, judging
from evals.store.cell_files import existing
from evals.store.folders import read_document
from evals.store.journal import Lines
from evals.store.result_document import CellEntry, cell_key
from evals.store.scales import by_hand, judge_kind, measured_by
from evals.tasks import registry
from hidrop.errors import UserError
from tests.evals.test_any_task import OWN, matrix, own

# `get_eval(` makes it a task that waits for a judge. This one asks nobody, and smaller values of `strict` are better.
FUNCTIONS = """
def nothing(doc):
    return []

def get_eval(doc):
    return int(doc["answer"]) / 2

def rated(doc, results):
    return {"loose": 1.0, "strict": get_eval(doc)}
"""
JUDGED = OWN.partition("metric_list:")[0] + (
    """process_results: !function functions.rated
metric_list:
  - {metric: loose, aggregation: mean, higher_is_better: true}
  - {metric: strict, aggregation: mean, higher_is_better: false}
"""
)
KEYS = ["plain/vanilla/mine", "plain/fastv/mine"]


@pytest.fixture(autouse=True)
def no_other_tasks_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_own", {})


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of one's own that waits for a judge, in two cells, with its results."""
    folder = tmp_path_factory.mktemp("judged")
    path = own(folder)
    path.write_text(JUDGED)
    (folder / "functions.py").write_text(FUNCTIONS)
    assert run(folder, folder / "out") == 0
    registry._own.clear()
    return folder


def run(folder: Path, out: Path) -> int:
    path = matrix(folder, f"  mine: {{yaml: {folder / 'mine.yaml'}, metric: strict}}")
    return main(["run", str(path), "--out", str(out)])


@pytest.fixture
def waiting(answered: Path, tmp_path: Path) -> Path:
    """A copy of its results folder."""
    return Path(shutil.copytree(answered / "out", tmp_path / "out"))


def cells_of(folder: Path) -> dict[str, Any]:
    return {cell["label"]: cell for cell in read_document(folder)["cells"]}


def judged(waiting: Path, source: str, *more: str, name: str = "f") -> int:
    """`score` with the function f of a file with this source."""
    rule = waiting.parent / "f.py"
    rule.write_text(source)
    return main(["score", str(waiting), "--judge", name, "--with", f"{rule}:f", *more])


def cell(**fields: Any) -> CellEntry:
    found = {"model": "m", "label": "fastv", "task": "t", "metric": "score", "value": 50.0, "base": "m/vanilla/t"}
    return cast("CellEntry", found | fields)


def test_a_task_of_ones_own_is_judged_where_its_file_is_gone(
    waiting: Path, answered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A later process does not know the task: values without statistics, and everything else works."""
    found = read_document(waiting)
    found["own_tasks"] = {"mine": str(waiting / "gone.yaml")}
    (waiting / "leaderboard.json").write_text(json.dumps(found))
    assert judged(waiting, "def f(row):\n    return row['doc_id'] / 2\n") == 0
    assert "mine: no statistics: unknown task 'mine'" in capsys.readouterr().out
    assert all(one["value"] == 50 and "stats" not in one for one in cells_of(waiting).values())
    assert not read_document(waiting).get("correlations")
    assert cells_of(waiting)["fastv"]["percent_of_vanilla"] == 100
    assert main(["doctor", str(waiting)]) == main(["report", str(waiting), "--tables"]) == 0


def test_a_task_of_ones_own_has_statistics_in_a_later_process(waiting: Path) -> None:
    assert judged(waiting, "def f(row):\n    return row['doc_id'] / 2\n") == 0
    assert cells_of(waiting)["fastv"]["stats"]["against"]["difference"] == 0
    (together,) = read_document(waiting)["correlations"]
    assert together["task"] == "mine" and together["upper"] == [[1.0], []]


def test_an_interrupted_judge_leaves_a_document_that_says_what_the_journals_say(waiting: Path) -> None:
    source = (
        "n = 0\ndef f(row):\n    global n\n    n += 1\n    if n > 3:\n        raise KeyboardInterrupt\n    return 1\n"
    )
    assert judged(waiting, source) == INTERRUPTED
    assert cells_of(waiting)["vanilla"]["value"] == 100 and cells_of(waiting)["fastv"]["unscored"] == "to judge"
    assert main(["doctor", str(waiting)]) == 0
    assert judged(waiting, "def f(row):\n    return 1\n") == 0
    assert cells_of(waiting)["fastv"]["percent_of_vanilla"] == 100


def test_the_document_is_saved_after_each_cell_and_any_error_of_a_judge_costs_its_cell(waiting: Path) -> None:
    def scores(cell: CellEntry, lines: Lines) -> Any:
        if cell["label"] == "vanilla":
            raise ZeroDivisionError("by the judge")
        return judging.by_file(judgements, [cell]).scores(cell, lines)

    judgements = waiting.parent / "one.jsonl"
    judgements.write_text("\n".join(json.dumps({"doc_id": n, "score": 1}) for n in range(3)))
    saved: list[list[float | None]] = []
    outcome = judging.judge_cells(
        waiting,
        read_document(waiting),
        judging.Judge("function", scores),
        lambda found: saved.append([one["value"] for one in found["cells"]]),
        named="x",
    )
    assert outcome.problems == ["plain/vanilla/mine: ZeroDivisionError: by the judge"]
    assert [one.cell for one in outcome.found] == ["plain/fastv/mine"]
    assert saved == [[None, 100.0]] * 2  # after the cell, and with the statistics


def test_a_result_names_the_kind_of_its_judge(waiting: Path) -> None:
    assert judged(waiting, "def f(row):\n    return 1\n", name="people") == 0
    found = cells_of(waiting)["fastv"]
    assert (found["judge"], found["judge_kind"], "own_scale" in found) == ("people", "function", False)
    result = Lines.of(existing(waiting, found["id"])[0]).result
    assert result is not None and result["judge"]["kind"] == "function" and result["judge"]["name"] == "people"


def test_the_kind_of_a_judge_that_an_early_journal_does_not_name_follows_from_its_metric() -> None:
    early = {"name": "x", "date": "2026-11-20"}
    assert (judge_kind("judged", early), judge_kind("strict", early)) == ("file", "official")
    assert judge_kind("judged", {**early, "kind": "function"}) == "function"
    assert by_hand(cell(metric="judged", judge="x")) and not by_hand(cell(metric="strict", judge="x"))
    assert not by_hand(cell())


# ---- judgements of a file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"doc_id": 0, "score": 1}], f'document 0 has no "cell", and 2 cells wait: {", ".join(KEYS)}'),
        ([{"doc_id": 0, "score": n, "cell": KEYS[0]} for n in (0, 1)], f"document 0 of {KEYS[0]} has two scores"),
        ([{"doc_id": "0", "score": 1, "cell": KEYS[0]}], "line 1: doc_id '0' is not a whole number"),
        ([{"doc_id": 0, "score": 1, "cell": 7}], "document 0: 7 is not the name of a cell"),
    ],
)
def test_judgements_that_are_not_clear_are_refused_before_a_cell_is_scored(
    rows: list[dict[str, Any]], message: str, waiting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = waiting.parent / "scores.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert main(["score", str(waiting), "--judge", "x", "--judgements", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert {one["unscored"] for one in cells_of(waiting).values()} == {"to judge"}


def test_judgements_need_no_cell_where_one_cell_waits(waiting: Path) -> None:
    path = waiting.parent / "scores.jsonl"
    path.write_text("\n".join(json.dumps({"doc_id": n, "score": n / 2}) for n in range(3)))
    assert main(["score", str(waiting), "--judge", "x", "--judgements", str(path), "--only", "fastv"]) == 0
    assert cells_of(waiting)["fastv"]["value"] == 50 and cells_of(waiting)["vanilla"]["value"] is None


# ---- what is compared ----------------------------------------------------------------------------------------------


def test_a_percentage_needs_the_same_judge_and_metric_and_a_scale_that_rises() -> None:
    people = {"metric": "judged", "judge": "people", "judge_kind": "file"}
    base = cell(label="vanilla", value=100.0, **people)
    assert document.percent_of(cell(**people), base) == 50
    for other in ({"judge": "gpt"}, {"metric": "score"}, {"lower_is_better": True}):
        assert document.percent_of(cell(**people | other), base) is None
    assert document.percent_of(cell(own_scale=True), cell(value=25.0, own_scale=True)) == 200
    assert document.percent_of(cell(own_scale=True, metric="other"), cell(value=25.0, own_scale=True)) is None
    assert measured_by(cell(metric="a")) == measured_by(cell(metric="a, a category is missing"))


def test_cells_of_different_judges_are_not_compared_until_one_judge_has_scored_them_all(waiting: Path) -> None:
    assert judged(waiting, "def f(row):\n    return 1\n", "--only", "vanilla", name="people") == 0
    assert judged(waiting, "def f(row):\n    return row['doc_id'] / 2\n", name="gpt") == 0
    fastv = cells_of(waiting)["fastv"]
    assert fastv["value"] == 50 and fastv["percent_of_vanilla"] is None and "against" not in fastv["stats"]
    assert fastv["base"] == KEYS[0]
    table = (waiting / "leaderboard.md").read_text()
    assert "Not compared with vanilla, because the judge or the metric is another one: mine" in table
    assert "vanilla's score is 0" not in table
    assert judged(waiting, "def f(row):\n    return 1\n", "--again", name="gpt") == 0
    fastv = cells_of(waiting)["fastv"]
    assert fastv["percent_of_vanilla"] == 100 and fastv["stats"]["against"]["difference"] == 0
    assert "Not compared" not in (waiting / "leaderboard.md").read_text()


def test_compare_pairs_no_samples_of_different_judges(
    waiting: Path, answered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(waiting, waiting.parent / "other"))
    for folder, name in ((waiting, "people"), (other, "gpt")):
        assert judged(folder, "def f(row):\n    return 1\n", name=name) == 0
    capsys.readouterr()
    assert main(["compare", str(waiting), str(other)]) == 0
    shown = capsys.readouterr().out
    assert "2 cells in both, 0 of them sample by sample" in shown
    assert f"judge of {', '.join(KEYS)} (people / gpt)" in shown
    assert main(["compare", str(waiting), str(waiting)]) == 0
    assert "2 cells in both, 2 of them sample by sample" in capsys.readouterr().out


# ---- lmms-eval's own functions -------------------------------------------------------------------------------------


def test_official_functions_score_by_the_matrix_metric_on_their_own_scale_also_after_the_next_run(
    waiting: Path, answered: Path
) -> None:
    """The task's first metric would be `loose`, and give 1."""
    assert main(["score", str(waiting), "--judge", "server", "--official"]) == 0
    for _ in range(2):
        found = cells_of(waiting)["fastv"]
        assert (found["metric"], found["value"], found["judge_kind"]) == ("strict", 0.5, "official")
        assert found["own_scale"] and found["lower_is_better"] and found["percent_of_vanilla"] is None
        assert found["stats"]["against"]["difference"] == 0
        table = (waiting / "leaderboard.md").read_text()
        assert "mine is scored by lmms-eval's functions, with server as the judge" in table
        assert "as lmms-eval prints them for mine" in table and "times 100" not in table
        assert run(answered, waiting) == 0
    assert judged(waiting, "def f(row):\n    return 1\n", "--again") == 0
    assert not {"own_scale", "lower_is_better"} & cells_of(waiting)["fastv"].keys()


def test_official_functions_refuse_other_data_than_the_answers_are_of(
    answered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(answered, tmp_path / "copy"))
    out = folder / "out"
    found = read_document(out)
    found["own_tasks"] = {"mine": str(folder / "mine.yaml")}
    (out / "leaderboard.json").write_text(json.dumps(found))
    import pyarrow.parquet as parquet

    rows = folder / "rows.parquet"
    table = parquet.read_table(rows)
    parquet.write_table(table.take([2, 1, 0]), rows)
    assert main(["score", str(out), "--judge", "server", "--official"]) == 1
    assert f"{KEYS[1]}: the data of mine is not what the cell was asked" in capsys.readouterr().out
    assert {one["unscored"] for one in cells_of(out).values()} == {"to judge"}


def test_a_cell_that_nothing_waits_for_is_told(waiting: Path) -> None:
    found = read_document(waiting)
    assert [cell_key(one) for one in judging.waiting(found)] == KEYS
    with pytest.raises(UserError, match="no cell waits for a judge among those with 'nowhere'"):
        judging.judge_cells(waiting, found, judging.by_official(found), print, named="x", only="nowhere")
