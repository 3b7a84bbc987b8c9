import json
import subprocess
import sys
from pathlib import Path

import pytest

from evals import cli

ROOT = Path(__file__).parents[3]
METHODS = """
  vanilla: {}
  fastv: {layer: 1, keep: 4}
  hidrop: {inject: 2, filters: [2], keep: [3], exit: 4}
"""


@pytest.fixture
def checkpoint(tmp_path, tiny_llava, tokenizer, image_processor):
    """A tiny random LLaVA on disk, as a user's own checkpoint would be."""
    from hidrop.models import save

    model = tiny_llava(layers=4, seed=3)
    model.config.text_config.max_position_embeddings = 2048  # the test's tokenizer makes a token of each letter
    return save(model, tokenizer, image_processor, tmp_path / "checkpoint")


@pytest.fixture
def matrix(tmp_path, checkpoint, data_folder):
    """A matrix file on the tiny checkpoint and the tiny data; `methods` and fields can be replaced."""

    timed = "{repeats: 1, warmup: 0, new_tokens: 2, text_tokens: 8}"

    def write(methods=METHODS, source=checkpoint, data=data_folder, tasks=("gqa", "pope"), profile=timed, more=""):
        path = tmp_path / "tiny.yaml"
        lines = [
            "name: tiny",
            "protocol: lmms-eval",
            "dtype: float32",
            "device: cpu",
            "batch_size: 2",
            f"models: {{tiny: {{source: {source}}}}}",
            f"methods: {methods}",
            "tasks:",
            *(f"  {task}: {{data: {data}}}" for task in tasks),
            f"profile: {profile}",
            more,
        ]
        path.write_text("\n".join(lines))
        return str(path)

    return write


def run(*arguments):
    return cli.main([str(a) for a in arguments])


def test_a_matrix_runs_from_file_to_table(matrix, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--matrix", matrix(), "--out", out, "--json") == cli.DONE
    captured = capsys.readouterr()
    document = json.loads(captured.out.splitlines()[-1])
    assert document == json.loads((out / "leaderboard.json").read_text())
    assert {(c["label"], c["task"]): c["n"] for c in document["cells"]} == {
        (label, task): n for label in ("vanilla", "fastv", "hidrop") for task, n in (("gqa", 3), ("pope", 6))
    }
    assert {c["label"]: c["average_tokens"] for c in document["cells"]} == {"vanilla": 16, "fastv": 7, "hidrop": 4.75}
    assert {p["label"] for p in document["profiles"]} == {"vanilla", "fastv", "hidrop"}
    assert document["failed"] == [] and document["versions"]["torch"]
    assert (out / "leaderboard.md").is_file() and (out / "leaderboard.csv").is_file()
    assert "tiny/fastv/gqa" in captured.err and "tiny/fastv/gqa" not in captured.out

    assert run("--matrix", matrix(), "--out", out, "--json") == cli.DONE
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {**again, "date": None} == {**document, "date": None}

    assert run("report", out, "--json") == cli.DONE
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == again


def test_a_broken_image_costs_its_sample_only(matrix, tmp_path, make_rows, write_parquet, capsys):
    documents = make_rows("gqa")
    documents[1] = {**documents[1], "image": {"bytes": b"not a picture", "path": None}}
    write_parquet(documents, tmp_path / "data/gqa/testdev.parquet")
    path = matrix("{vanilla: {}}", data=tmp_path / "data", tasks=("gqa",), profile="null")
    assert run("--matrix", path, "--out", tmp_path / "out", "--json") == cli.DONE
    [cell] = json.loads(capsys.readouterr().out.splitlines()[-1])["cells"]
    assert (cell["n"], cell["n_failed"]) == (3, 1)
    records = [json.loads(line) for line in next((tmp_path / "out/samples").iterdir()).read_text().splitlines()]
    failed = [r["doc_id"] for r in records if r["kind"] == "answer" and r["error"]]
    assert failed == [1]


def test_a_failed_cell_makes_exit_code_1_and_is_told_without_hiding_the_others(matrix, tmp_path, monkeypatch, capsys):
    from baselines.fastv import FastV

    def broken(self, view):
        raise RuntimeError("this method is broken")

    monkeypatch.setattr(FastV, "score", broken)
    path = matrix(tasks=("gqa",), profile="null")
    assert run("--matrix", path, "--out", tmp_path / "out", "--json") == cli.SOME_FAILED
    captured = capsys.readouterr()
    document = json.loads(captured.out.splitlines()[-1])
    assert {c["label"] for c in document["cells"]} == {"vanilla", "hidrop"}
    assert document["failed"][0]["error"] == "RuntimeError: this method is broken"
    assert "failed: tiny/fastv/gqa: RuntimeError: this method is broken (traceback: " in captured.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "{fastv: {layr: 1}}"}, "tiny.yaml: methods.fastv.layr: unknown field. Did you mean 'layer'?"),
        ({"methods": "{fastv: {layer: 9, keep: 2}}"}, "tiny.yaml: methods.fastv on tiny: cut after layer 9"),
        ({"methods": "{fastv: {keep: 99}}"}, "tiny.yaml: methods.fastv on tiny: keep 99 after layer 2: only 16"),
        ({"methods": "{fastv: {budget: 1}}"}, "an average of 1 visual tokens is out of reach: "),
        ({"methods": "{own: {name: checkpoint}}"}, "methods.own on tiny: the checkpoint was trained without"),
        ({"source": "/nowhere/at/all"}, "tiny.yaml: models.tiny.source: model '/nowhere/at/all': no such folder"),
        ({"data": "/nowhere"}, "tiny.yaml: tasks.pope: no data in '/nowhere'"),
        ({"tasks": ("gaq",)}, "tiny.yaml: tasks.gaq: unknown task. Did you mean 'gqa'?"),
        ({"more": "attention: flash_attention_2"}, "flash"),
    ],
)
def test_what_the_user_has_to_change_is_said_before_any_work_with_exit_code_2(
    matrix, tmp_path, capsys, changes, message
):
    path, out = matrix(**changes), tmp_path / "out"
    assert run("run", "--matrix", path, "--out", out) == cli.USER
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told
    assert not out.exists()


def test_cuda_that_is_not_there_is_the_users_to_change(matrix, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run("--matrix", matrix(), "--device", "cuda") == cli.USER
    assert "no CUDA device" in capsys.readouterr().err


def test_a_results_folder_that_cannot_be_made_is_the_users_to_change(matrix, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("--matrix", matrix(), "--out", tmp_path / "file" / "out") == cli.USER
    assert "is a file, not a folder" in capsys.readouterr().err


def test_validate_lists_all_problems_and_exits_with_2(matrix, capsys):
    path = matrix("{fastv: {layer: 9, keep: 2}}", data="/nowhere")
    assert run("validate", path, "--json") == cli.USER
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and json.loads(lines[-1])["problems"] == lines[:3]
    assert [line.split(": ")[1].split(" ")[0] for line in lines[:3]] == ["methods.fastv", "tasks.gqa", "tasks.pope"]


def test_validate_says_ok_for_a_matrix_that_can_run(matrix, capsys):
    assert run("validate", matrix()) == cli.DONE
    assert capsys.readouterr().out == "tiny.yaml: ok, 6 cells in 3 rows\n"


def test_plan_prints_every_row_and_its_costs(matrix, capsys):
    assert run("plan", matrix(), "--json") == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    rows = {row["label"]: row for row in json.loads(lines[-1])["rows"]}
    assert rows["hidrop"]["entering"] == [0, 16, 3, 0] and rows["fastv"]["average_tokens"] == 7
    assert next(line for line in lines if " fastv " in line).endswith("1x16 3x4")


def test_plan_of_the_paper_needs_no_checkpoint(capsys):
    assert run("plan", "paper", "--only", "hidrop-7b-64") == cli.DONE
    assert "64.00" in capsys.readouterr().out


def test_limit_asks_only_the_first_samples(matrix, tmp_path, capsys):
    arguments = ("--matrix", matrix(), "--out", tmp_path / "out", "--only", "vanilla/pope", "--limit", 2, "--json")
    assert run(*arguments) == cli.DONE
    [cell] = json.loads(capsys.readouterr().out.splitlines()[-1])["cells"]
    assert cell["n"] == 2


def test_an_interrupt_says_how_to_go_on(matrix, monkeypatch, capsys):
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("evals.run.runner.run", interrupted)
    assert run("--matrix", matrix()) == cli.INTERRUPTED
    assert "Run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize("text", [None, "no json"])
def test_report_of_a_folder_without_a_document_is_the_users_to_change(tmp_path, capsys, text):
    if text:
        (tmp_path / "leaderboard.json").write_text(text)
    assert run("report", tmp_path) == cli.USER
    assert "leaderboard.json" in capsys.readouterr().err


def test_train_hands_recipe_and_options_over(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(
        "hidrop.recipes.train", lambda recipe, **options: given.update(options, recipe=recipe), raising=False
    )
    assert run("train", "mini-hidrop", "--resume", "--out", tmp_path) == cli.DONE
    assert given == {"recipe": "mini-hidrop", "resume": True, "out": tmp_path}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], []])
def test_help_loads_no_heavy_library(arguments):
    code = (
        "import sys\nfrom evals import cli\ntry:\n    cli.main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'lmms_eval', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, cwd=ROOT, capture_output=True)


@pytest.mark.parametrize("arguments", [["--limit", "0"], ["--limit", "x"], ["unknown"], []])
def test_wrong_usage_exits_with_2(arguments):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == cli.USER


def test_retry_runs_what_failed_and_nothing_else(matrix, tmp_path, monkeypatch, capsys):
    from evals.run import engine

    out, file = tmp_path / "out", matrix(profile="null")
    inner = engine.evaluate

    def failing(lm, cell):
        if cell.key == "tiny/fastv/pope":
            raise RuntimeError("out of memory")
        return inner(lm, cell)

    monkeypatch.setattr(engine, "evaluate", failing)
    assert run("run", "--matrix", file, "--out", out, "--quiet") == 1
    assert "[1/6]" not in capsys.readouterr().out, "quiet is quiet"
    asked = []
    monkeypatch.setattr(engine, "evaluate", lambda lm, cell: asked.append(cell.key) or inner(lm, cell))
    assert run("retry", file, "--out", out, "--json") == 0
    assert asked == ["tiny/fastv/pope"]
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["cells"]) == 6, "the table has all rows"
    assert run("retry", file, "--out", out) == 2
    assert "nothing failed there" in capsys.readouterr().err


def test_the_table_of_a_real_run_says_what_differs(matrix, tmp_path, capsys):
    out, file = tmp_path / "out", matrix(profile="null")
    assert run("run", "--matrix", file, "--out", out) == 0
    text = (out / "leaderboard.md").read_text()
    assert "Differences from vanilla" in text and "Flips against vanilla" in text and "exact McNemar test" in text
    cells = json.loads((out / "leaderboard.json").read_text())["cells"]
    for cell in cells:
        low, high = cell["stats"]["interval"]
        assert low <= cell["value"] <= high or cell["n"] < 4
    assert run("compare", out, out) == 0 and "6 cells in both, 6 of them sample by sample" in capsys.readouterr().out
