"""Tasks of lmms-eval without a class of their own, from a matrix file to the table, on the embedded model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from evals.cli import main
from evals.matrix.schema import load_matrix
from evals.run import engine
from evals.store.folders import read_document
from evals.tasks import TaskSpec, registry
from evals.tasks.evaluation import most_images
from hidrop.errors import UserError
from tests.evals.tasks.layout import write
from tests.evals.tasks.table import PICTURES

MATRIX = """
protocol: lmms-eval
device: cpu
dtype: float32
batch_size: 4
models: {{plain: {{source: "mini:vanilla"}}}}
methods: {{vanilla: {{}}, fastv: {{layer: 1, budget: "25%"}}}}
tasks:
{tasks}
profile: null
"""
OWN = """
task: mine
dataset_path: parquet
dataset_kwargs: {data_files: {test: rows.parquet}}
test_split: test
output_type: generate_until
doc_to_visual: !function functions.nothing
doc_to_text: "{{question}}"
doc_to_target: answer
generation_kwargs: {max_new_tokens: 4}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(autouse=True)
def no_other_tasks_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_own", {})


def matrix(folder: Path, tasks: str) -> Path:
    path = folder / "some.yaml"
    path.write_text(MATRIX.format(tasks=tasks))
    return path


def charts(folder: Path, count: int = 6) -> None:
    """ChartQA's official columns: questions of people and augmented ones."""
    rows = [
        {
            "type": ("human_test", "augmented_test")[n % 2],
            "question": f"What is {n}?",
            "answer": str(n),
            "image": PICTURES[n % 4],
        }
        for n in range(count)
    ]
    write(rows, folder / "ChartQA/data/test-00000-of-00001.parquet")


def chats(folder: Path, count: int = 4) -> None:
    """MM-Vet's official columns."""
    rows = [
        {
            "question_id": f"v1_{n}",
            "image_source": "x",
            "question": f"Where is {n}?",
            "answer": "here<AND>there",
            "capability": "rec",
            "image": PICTURES[n % 4],
        }
        for n in range(count)
    ]
    write(rows, folder / "MMVet/data/test-00000-of-00001.parquet")


def own(folder: Path) -> Path:
    """A user's YAML file, with its function and its rows next to it."""
    (folder / "functions.py").write_text("def nothing(doc):\n    return []\n")
    rows = [{"question": f"Say {n}", "answer": str(n)} for n in range(3)]
    write(rows, folder / "rows.parquet")
    path = folder / "mine.yaml"
    path.write_text(OWN)
    return path


def test_the_most_images_of_a_prompt_are_counted_in_the_data(tmp_path: Path) -> None:
    charts(tmp_path / "data")
    registry.add("mine", own(tmp_path))
    assert most_images(TaskSpec("chartqa", str(tmp_path / "data"), "lmms-eval")) == 1
    mine = TaskSpec("mine", str(tmp_path), "lmms-eval")
    assert most_images(mine) == 1, "documents without an image"
    rows = [{"question": "Say", "answer": "x", "one": PICTURES[0], "two": PICTURES[n] if n else None} for n in range(3)]
    write(rows, tmp_path / "rows.parquet")
    assert (most_images(mine), most_images(mine, limit=1)) == (2, 1)


def test_any_task_and_ones_own_run_from_a_matrix_and_finished_cells_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    charts(tmp_path / "data")
    path = matrix(
        tmp_path, f"  chartqa: {{data: {tmp_path / 'data'}}}\n  mine: {{yaml: {own(tmp_path)}}}\n  gqa: {{data: mini}}"
    )
    out = tmp_path / "out"
    assert main(["run", str(path), "--limit", "6", "--out", str(out)]) == 0
    cells = {(cell["label"], cell["task"]): cell for cell in read_document(out)["cells"]}
    assert len(cells) == 6
    chart = cells["fastv", "chartqa"]
    assert (chart["metric"], chart["n"], chart["own_scale"]) == ("relaxed_overall", 6, True)
    assert set(chart["extra"]) == {"relaxed_human_split", "relaxed_augmented_split"}
    assert cells["vanilla", "mine"]["n"] == 3 and "own_scale" not in cells["vanilla", "gqa"]
    assert cells["vanilla", "mine"]["share"] == 0  # no image in any prompt
    shown = capsys.readouterr().out
    assert "Scores are 0 to 100, and as lmms-eval prints them for chartqa, mine" in shown
    data = f"lmms-lab-encoder/ChartQA, 6 rows; mine: {tmp_path / 'mine.yaml'}, 3 rows"
    assert data in shown
    # A later process does not know the user's task.
    registry._own.clear()
    assert main(["report", str(out), "--tables"]) == 0
    assert data in capsys.readouterr().out
    assert main(["run", str(path), "--limit", "6", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("(from an earlier run)") == 6


@pytest.mark.parametrize("there", [True, False])
def test_a_task_of_ones_own_is_known_to_later_commands_where_its_file_is_there(
    there: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own(tmp_path)
    out = tmp_path / "out"
    assert main(["run", str(matrix(tmp_path, f"  mine: {{yaml: {path}}}")), "--out", str(out)]) == 0
    registry._own.clear()
    if not there:
        path.unlink()
    capsys.readouterr()
    assert main(["compare", str(out), str(out)]) == 0
    shown = capsys.readouterr().out
    assert f"2 cells in both, {2 if there else 0} of them sample by sample" in shown
    assert len({line.split()[0] for line in shown.splitlines() if line.startswith("plain/")}) == 2
    registry._own.clear()
    assert main(["report", str(out)]) == main(["doctor", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert ("no questions and images: unknown task" in page) != there


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ("  charttqa: {data: x}", "tasks.charttqa: unknown task. Did you mean 'chartqa'?"),
        ("  chartqa: {}", "tasks.chartqa.data: missing. Give mini, hub, or a folder"),
        ("  mmvet: {data: hub, metric: foo}", "tasks.mmvet: metric: the task has no 'foo'. It has gpt_eval_score"),
        ("  gqa: {data: mini, metric: exact}", "tasks.gqa: metric: the task has one value only"),
        ("  librispeech_test_clean: {data: hub}", "tasks.librispeech_test_clean: "),
        ("  chartqa: {data: hub, protocol: llava}", "tasks.chartqa: cannot be asked under protocol 'llava'. Use lmms"),
        ("  gqa: {yaml: none.yaml}", "lmms-eval has a task called gqa. Give yours another name"),
        ("  mine: {yaml: none.yaml}", "none.yaml: no such file"),
        ("  mine: {yaml: tests}", "tests: a folder. Name the YAML file in it"),
        ("  vqav2_val: {data: hub, version: x}", "tasks.vqav2_val.version: unknown version 'x'"),
    ],
)
def test_a_task_that_cannot_be_asked_is_told_with_its_place(tasks: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load_matrix(matrix(tmp_path, tasks))
    assert f"some.yaml: {message}" in str(error.value) or message in str(error.value)


def test_a_group_is_its_tasks_and_an_entry_of_one_of_them_wins(tmp_path: Path) -> None:
    path = matrix(tmp_path, "  mmmu: {data: a}\n  mmmu_val: {data: b}")
    found = load_matrix(path)
    assert set(found.groups["mmmu"]) <= set(found.tasks) and "mmmu" not in found.tasks
    assert found.tasks["mmmu_val"].data == "b" and found.tasks["mmmu_test"].data == "a"


def test_what_fails_on_the_first_documents_is_told_before_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The functions are the user's: one reads a column that is not there."""
    path = own(tmp_path)
    (tmp_path / "functions.py").write_text("def nothing(doc):\n    return [doc['picture']]\n")
    assert main(["validate", str(matrix(tmp_path, f"  mine: {{yaml: {path}}}"))]) == 2
    shown = capsys.readouterr()
    told = "lmms-eval's task fails on its first documents: KeyError: 'picture' (functions.py, line 2). The data has"
    assert f"tasks.mine: {told} the columns question, answer" in shown.out + shown.err


def test_data_next_to_files_of_ones_own_and_a_folder_as_repository_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own(tmp_path)
    assert main(["validate", str(matrix(tmp_path, f"  mine: {{yaml: {path}, data: nowhere}}"))]) == 0
    assert f"mine: data 'nowhere' is not used: {path} names its files" in capsys.readouterr().out
    other = tmp_path / "other.yaml"
    other.write_text(OWN.replace("dataset_path: parquet", f"dataset_path: {tmp_path}"))
    assert main(["validate", str(matrix(tmp_path, f"  other: {{yaml: {other}}}"))]) == 2
    shown = capsys.readouterr()
    assert f"'{tmp_path}' is a folder: give it as tasks.other.data in the matrix" in shown.out + shown.err


def test_a_data_folder_that_does_not_exist_is_told_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "here").mkdir()
    for name, there in (("here", True), ("daat", False)):
        assert main(["validate", str(matrix(tmp_path, f"  chartqa: {{data: {tmp_path / name}}}"))]) == 2
        shown = capsys.readouterr()
        assert ("There is no such folder. Get it with: hf download" in shown.out + shown.err) != there


def test_a_broken_line_of_json_is_told_with_the_parsers_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "1"}\n{"question": "b"\n')
    path.write_text(OWN.replace("dataset_path: parquet", "dataset_path: json").replace("rows.parquet", "rows.jsonl"))
    assert main(["validate", str(matrix(tmp_path, f"  mine: {{yaml: {path}}}"))]) == 2
    shown = capsys.readouterr()
    assert (
        "rows.jsonl: cannot be read as JSON: ArrowInvalid: JSON parse error: Missing a comma" in shown.out + shown.err
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("exact_match", "exact_macth", "lmms-eval has no metric 'exact_macth'. Did you mean 'exact_match'?"),
        ("{{question}}", "{{qestion}}", "'qestion' is undefined. The data has the columns question, answer"),
        ("functions.nothing", "functions.nothin", "module 'functions' has no attribute 'nothin'"),
        ("task: mine", "include: nowhere.yaml\ntask: mine", "mine.yaml: include: "),
        (
            "metric_list:",
            "process_results: !function functions.score\nmetric_list:",
            "document 2 cannot be scored: lmms-eval's process_results failed: ValueError: odd (functions.py, line 5)",
        ),
    ],
)
def test_a_mistake_in_a_yaml_file_or_its_functions_is_told_before_a_run(
    old: str, new: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last one fails on the third of three documents only."""
    path = own(tmp_path)
    path.write_text(OWN.replace(old, new))
    scoring = "def score(doc, results):\n    if doc['answer'] == '2':\n        raise ValueError('odd')\n    return {}\n"
    with (tmp_path / "functions.py").open("a") as file:
        file.write(scoring)
    assert main(["validate", str(matrix(tmp_path, f"  mine: {{yaml: {path}}}"))]) == 2
    shown = capsys.readouterr()
    assert message in " ".join((shown.out + shown.err).split())
    assert "Traceback" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("none", "rows.parquet: no rows. Correct it, or name another file in "),
        ("pointer", "this is not a parquet file. Correct it, or name another file in "),
        ("split", "mine.yaml: dataset_kwargs.data_files names no file for the split 'tset' that is there (it"),
        ("file", "names no file for the split 'test' that is there (other.parquet). Its paths begin at the folder of"),
    ],
)
@pytest.mark.parametrize("data", ["", ", data: hub"])
def test_a_file_of_ones_own_that_cannot_be_read_is_told_with_its_yaml_file(
    change: str, message: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no repository: no command can download it."""
    path = own(tmp_path)
    if change == "none":
        import pyarrow.parquet as parquet

        rows = tmp_path / "rows.parquet"
        parquet.write_table(parquet.read_table(rows).slice(0, 0), rows)
    elif change == "pointer":
        (tmp_path / "rows.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    elif change == "split":
        path.write_text(OWN.replace("test_split: test", "test_split: tset"))
    else:
        path.write_text(OWN.replace("test: rows", "test: other"))
    assert main(["validate", str(matrix(tmp_path, f"  mine: {{yaml: {path}{data}}}"))]) == 2
    shown = " ".join((captured := capsys.readouterr()).out.split() + captured.err.split())
    assert message in shown and "hf download" not in shown


def test_the_reading_of_a_multiple_choice_task_is_the_choice_that_scores(tmp_path: Path) -> None:
    """Likelihoods themselves differ between any two methods, so that no two answers would ever be the same."""
    path = own(tmp_path)
    choices = 'output_type: multiple_choice\ndoc_to_choice: ["0", "1", "2"]'
    text = OWN.replace("output_type: generate_until", choices).replace("exact_match", "acc")
    path.write_text(text.replace("doc_to_target: answer", 'doc_to_target: "{{answer|int}}"'))
    out = tmp_path / "out"
    assert main(["run", str(matrix(tmp_path, f"  mine: {{yaml: {path}}}")), "--out", str(out)]) == 0
    for journal in (out / "samples").glob("*.jsonl"):
        rows = [json.loads(line) for line in journal.read_text().splitlines()]
        answers = {row["doc_id"]: json.loads(row["answer"]) for row in rows if row["kind"] == "answer"}
        scores = [row for row in rows if row["kind"] == "score"]
        assert len(scores) == 3
        for score in scores:
            logprobs = [logprob for logprob, _ in answers[score["doc_id"]]]
            assert logprobs[int(score["reading"])] == max(logprobs)
            assert score["score"] == (int(score["reading"]) == score["target"])


# ---- a judge -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix with two cells that wait for a judge, its data and its results."""
    folder = tmp_path_factory.mktemp("judged")
    chats(folder / "data")
    path = matrix(folder, f"  mmvet: {{data: {folder / 'data'}}}\n  gqa: {{data: mini}}")
    assert main(["run", str(path), "--limit", "4", "--out", str(folder / "out")]) == 0
    return folder


@pytest.fixture
def waiting(answered: Path, tmp_path: Path) -> Path:
    """A copy of its results folder."""
    return Path(shutil.copytree(answered / "out", tmp_path / "out"))


def cells_of(folder: Path) -> dict[str, Any]:
    return {cell["label"]: cell for cell in read_document(folder)["cells"] if cell["task"] == "mmvet"}


def test_answers_wait_for_a_judge_and_get_its_scores(
    waiting: Path, answered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {cell["unscored"] for cell in cells_of(waiting).values()} == {"to judge"}
    assert all(cell["value"] is None for cell in cells_of(waiting).values())
    [rows, other] = [path.read_text().splitlines() for path in sorted(waiting.glob("submissions/*/answers.jsonl"))]
    assert len(rows) == len(other) == 4 and json.loads(rows[0])["target"] == "here<AND>there"
    judgements = waiting.parent / "scores.jsonl"
    scores = {"plain/vanilla/mmvet": (1, 1, 0.5, 0), "plain/fastv/mmvet": (1, 0, 0.5, 0)}
    lines = [json.dumps({"cell": cell, "doc_id": n, "score": own[n]}) for cell, own in scores.items() for n in range(4)]
    judgements.write_text("\n".join(lines))
    assert main(["score", str(waiting), "--judge", "people, 3 each", "--judgements", str(judgements)]) == 0
    found = cells_of(waiting)
    assert found["vanilla"]["value"] == 62.5 and found["fastv"]["value"] == 37.5
    assert found["fastv"]["percent_of_vanilla"] == pytest.approx(60)
    against = found["fastv"]["stats"]["against"]
    assert against["difference"] == -25 and (against["gained"], against["lost"]) == (0, 1)
    table = (waiting / "leaderboard.md").read_text()
    assert "mmvet is the mean of scores from 0 to 1 by people, 3 each, times 100" in table
    # The journals have the scores: the next run takes them, and nothing is damaged.
    assert main(["doctor", str(waiting)]) == 0
    assert main(["run", str(answered / "some.yaml"), "--limit", "4", "--out", str(waiting)]) == 0
    assert cells_of(waiting)["fastv"]["value"] == 37.5 and cells_of(waiting)["fastv"]["judge"] == "people, 3 each"
    assert main(["score", str(waiting), "--judge", "again", "--judgements", str(judgements)]) == 2


def test_a_function_judges_and_a_bad_score_costs_one_cell(waiting: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = waiting.parent / "rule.py"
    rule.write_text("def half(row):\n    return 0.5\n\ndef odd(row):\n    return 7 if row['doc_id'] == 2 else 1\n")
    assert main(["score", str(waiting), "--judge", "x", "--with", f"{rule}:odd", "--only", "fastv"]) == 1
    assert f"plain/fastv/mmvet: {rule}:odd: document 2: 7 is not a score from 0 to 1" in capsys.readouterr().out
    assert cells_of(waiting)["fastv"]["unscored"] == "to judge"
    assert main(["score", str(waiting), "--judge", "x", "--with", f"{rule}:half"]) == 0
    assert {cell["value"] for cell in cells_of(waiting).values()} == {50.0}


def judged(waiting: Path, source: str, *more: str) -> int:
    """`score` with the function f of a file with this source."""
    rule = waiting.parent / "f.py"
    rule.write_text(source)
    return main(["score", str(waiting), "--judge", "f, by hand", "--with", f"{rule}:f", *more])


def test_a_second_judge_replaces_the_scores_of_the_first_when_asked(
    waiting: Path, answered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judged(waiting, "def f(row):\n    return 1\n") == 0
    assert judged(waiting, "def f(row):\n    return row['doc_id'] / 4\n") == 2
    assert "2 have scores by f, by hand: --again replaces them" in capsys.readouterr().err
    assert judged(waiting, "def f(row):\n    return row['doc_id'] / 4\n", "--again", "--only", "fastv") == 0
    assert {label: cell["value"] for label, cell in cells_of(waiting).items()} == {"vanilla": 100.0, "fastv": 37.5}
    assert main(["doctor", str(waiting)]) == 0


def test_a_server_that_gives_no_verdict_scores_nothing(
    waiting: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MM-Vet's function counts a document as 0 when its judge cannot be asked."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(["score", str(waiting), "--judge", "x", "--official"]) == 1
    shown = capsys.readouterr().out
    assert "plain/fastv/mmvet: the judge did not answer: lmms-eval's functions logged" in shown
    assert "OpenAI API key not configured. The cell still waits" in shown
    assert {cell["unscored"] for cell in cells_of(waiting).values()} == {"to judge"}


def test_a_file_for_the_judge_that_was_deleted_is_written_again_without_asking_the_model(
    waiting: Path, answered: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: (path / "answers.jsonl").read_text() for path in (waiting / "submissions").iterdir()}
    shutil.rmtree(waiting / "submissions")
    assert judged(waiting, "def f(row):\n    return 1\n") == 1
    assert "no answers.jsonl of this cell. The same `run` again writes it" in capsys.readouterr().out
    monkeypatch.setattr(engine, "load", lambda *_: pytest.fail("a model was loaded"))
    assert main(["run", str(answered / "some.yaml"), "--limit", "4", "--out", str(waiting)]) == 0
    assert {path.name: (path / "answers.jsonl").read_text() for path in (waiting / "submissions").iterdir()} == before
    assert judged(waiting, "def f(row):\n    return 1\n") == 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def g(row):\n    return 1\n", "f.py has no function 'f'"),
        ("import nowhere_at_all\n", "f.py fails: ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ],
)
def test_a_function_that_cannot_be_called_is_told_before_a_cell_is_scored(
    source: str, message: str, waiting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judged(waiting, source) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("doc_ids", "message"),
    [((0, 1, 2), "no score for document 3"), ((0, 1, 2, 3, 9), "plain/vanilla/mmvet has no document 9")],
)
def test_judgements_of_other_documents_are_told(
    doc_ids: tuple[int, ...], message: str, waiting: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, cell = waiting.parent / "scores.jsonl", "plain/vanilla/mmvet"
    path.write_text("\n".join(json.dumps({"cell": cell, "doc_id": n, "score": 1}) for n in doc_ids))
    assert main(["score", str(waiting), "--judge", "x", "--judgements", str(path), "--only", cell]) == 1
    assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((), "give one of --judgements FILE, --with FILE.py:NAME and --official"),
        (("--with", "nowhere.py:f"), "--with nowhere.py:f: not a function in a file"),
        (("--judgements", "nowhere.jsonl"), "nowhere.jsonl: cannot be read"),
    ],
)
def test_a_judge_that_is_none_is_told(more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "results/mini", "--judge", "x", *more]) == 2
    shown = capsys.readouterr()
    assert message in shown.out + shown.err
