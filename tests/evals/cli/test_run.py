"""run, retry, plan, validate: from a matrix file to tables, and what is wrong with a matrix in words."""

import errno
import json
import os
from collections import Counter

import pytest

from evals import cli
from evals.cli.exit_codes import SOME_FAILED
from evals.cli.options import BUNDLED
from evals.run.processes import Processes
from tests.evals.holding import held_elsewhere

pytestmark = pytest.mark.usefixtures("short_answers")


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
    assert all(set(p["speed_ups"]) == {"prefill", "ttft", "request"} for p in document["profiles"])
    assert document["failed"] == [] and document["versions"]["torch"]
    assert (out / "leaderboard.md").is_file() and (out / "leaderboard.csv").is_file()
    assert "tiny/fastv/gqa" in captured.err and "tiny/fastv/gqa" not in captured.out

    assert run("--matrix", matrix(), "--out", out, "--json") == cli.DONE
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {**again, "date": None} == {**document, "date": None}

    assert run("report", out, "--json") == cli.DONE
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == again


def test_a_run_loads_its_model_and_each_data_set_once_for_all_cells(matrix, tmp_path, monkeypatch):
    import datasets
    import transformers

    import hidrop.models

    loads = Counter()

    def counted(owner, name, of):
        real = getattr(owner, name)

        def call(*parts, **settings):
            loads[of(*parts, **settings)] += 1
            return real(*parts, **settings)

        monkeypatch.setattr(owner, name, call)

    counted(hidrop.models, "load", lambda source, **_: "model")
    model = transformers.LlavaForConditionalGeneration
    counted(model, "from_pretrained", lambda folder, **_: "weights" if folder else "headers")
    counted(transformers.AutoProcessor, "from_pretrained", lambda folder, **_: "processor")
    counted(datasets, "load_dataset", lambda *_, **settings: "data")
    assert run("--matrix", matrix(profile="null"), "--out", tmp_path / "out", "--quiet") == cli.DONE
    # Headers and processor: by the check before the run, and when the model is loaded.
    assert loads == {"model": 1, "weights": 1, "headers": 2, "processor": 2, "data": 2}


def test_force_and_keep_cells_contradict_each_other(matrix, tmp_path, capsys):
    assert run("--matrix", matrix(), "--out", tmp_path / "out", "--force", "--keep-cells") == cli.USER
    assert "--keep-cells takes them as they are. Give one of the two" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_that_share_a_folder_add_up_to_the_whole_table_and_the_last_one_writes_it(matrix, tmp_path, capsys):
    path, out = matrix("{vanilla: {}, fastv: {layer: 1, keep: 4}}", tasks=("gqa",)), tmp_path / "out"
    assert run("plan", path, "--cells") == cli.DONE
    keys = capsys.readouterr().out.splitlines()
    assert keys == ["tiny/vanilla/gqa", "tiny/fastv/gqa"]
    with held_elsewhere(out, shared=True):
        assert run("--matrix", path, "--out", out, "--share", "--only", keys[1], "--json") == cli.DONE
        captured = capsys.readouterr()
        assert "other runs with --share are at work in this folder: the last one writes the tables" in captured.err
        assert [cell["label"] for cell in json.loads(captured.out)["cells"]] == ["fastv"]
    assert not (out / "leaderboard.json").exists()
    assert run("--matrix", path, "--out", out, "--share", "--only", keys[0]) == cli.DONE
    document = json.loads((out / "leaderboard.json").read_text())
    assert [cell["label"] for cell in document["cells"]] == ["vanilla", "fastv"] and document["profiles"] == []
    assert run("--matrix", path, "--out", out) == cli.DONE  # nothing but the timings is left
    assert "(from an earlier run)" in capsys.readouterr().out
    assert {entry["label"] for entry in json.loads((out / "leaderboard.json").read_text())["profiles"]} == {
        "vanilla",
        "fastv",
    }


def test_what_a_shared_run_cannot_do_is_refused(matrix, tmp_path, capsys, monkeypatch):
    assert run("--matrix", matrix(), "--out", tmp_path / "out", "--force", "--share") == cli.USER
    assert "--force with --share: each run would answer again what the others have finished" in capsys.readouterr().err
    monkeypatch.setattr(Processes, "join", classmethod(lambda cls: cls(0, 2)))
    assert run("--matrix", matrix(), "--out", tmp_path / "out", "--share") == cli.USER
    assert "--share is for single processes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


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
    table = (tmp_path / "out/leaderboard.md").read_text()
    assert "(!) |" in table and "1 of 3 samples failed (33.3 %, more than 1 %)" in table
    assert "on 3 (official: 12,578)" in table


def test_a_full_disk_ends_with_exit_code_1_and_the_list_of_what_failed(matrix, tmp_path, monkeypatch, capsys):
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    assert run("--matrix", matrix(), "--out", out) == SOME_FAILED
    failed = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert sum("No space left on device" in line and ": not run: " not in line for line in failed) == 2
    assert sum(": not run: " in line for line in failed) >= 4 and failed[-1].startswith("failed: the tables: ")
    assert not any("traceback" in line for line in failed), "there is no room for one"
    assert not [path for path in out.rglob("*") if path.suffix == ".tmp"]
    monkeypatch.setattr(os, "fsync", real)
    assert run("--matrix", matrix(), "--out", out, "--quiet") == cli.DONE


def test_a_failed_cell_makes_exit_code_1_and_is_told_without_hiding_the_others(matrix, tmp_path, monkeypatch, capsys):
    from baselines.fastv import FastV

    def broken(self, view):
        raise RuntimeError("this method is broken")

    monkeypatch.setattr(FastV, "score", broken)
    path = matrix(tasks=("gqa",), profile="null")
    assert run("--matrix", path, "--out", tmp_path / "out", "--json") == SOME_FAILED
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
        ({"methods": "{own: {name: checkpoint}}"}, "methods.own on tiny: the checkpoint names no method"),
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
    assert run("validate", path) == cli.USER
    problems = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1].split(" ")[0] for line in problems] == ["methods.fastv", "tasks.gqa", "tasks.pope"]
    assert run("validate", path, "--json") == cli.USER
    assert json.loads(capsys.readouterr().out)["problems"] == problems
    assert run("validate", path, "--quiet") == cli.USER
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.splitlines() == problems, "problems are errors"


def test_validate_gives_the_problems_that_the_schema_finds_as_json(matrix, capsys):
    assert run("validate", matrix("{fastv: {layr: 1}}", tasks=("gaq",)), "--json") == cli.USER
    printed = capsys.readouterr()
    problems = json.loads(printed.out)["problems"]
    assert [line.split(": ")[1] for line in problems] == ["tasks.gaq", "methods.fastv.layr", "methods.fastv"]
    assert printed.err.splitlines()[1:] == problems


def test_validate_says_ok_for_a_matrix_that_can_run_and_notes_what_a_reader_should_know(matrix, capsys, monkeypatch):
    monkeypatch.setattr("evals.matrix.dtype_hint.bfloat16_hint", lambda matrix, cells, device: [f"a hint for {device}"])
    assert run("validate", matrix()) == cli.DONE
    assert capsys.readouterr().out.splitlines() == [
        "tiny.yaml: ok, 6 cells in 3 rows, batch size 2",
        "note: tiny.yaml: tasks.gqa: 3 rows, but the official testdev has 12,578",
        "note: tiny.yaml: tasks.pope: 6 rows, but the official test has 9,000",
        "note: a hint for cpu",
    ]


def test_plan_prints_every_row_and_its_costs(matrix, capsys):
    assert run("plan", matrix()) == cli.DONE
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if " fastv " in line).endswith("1x16 3x4")
    assert run("plan", matrix(), "--json") == cli.DONE
    printed = capsys.readouterr()
    rows = {row["label"]: row for row in json.loads(printed.out)["rows"]}
    assert rows["hidrop"]["entering"] == [0, 16, 3, 0] and rows["fastv"]["average_tokens"] == 7
    assert "1x16 3x4" in printed.err and "Batch size: 2." in printed.err


def test_the_matrix_may_be_an_argument_or_an_option_of_each_verb(matrix, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("evals.run.matrix_run.run_matrix", lambda options: asked.append(options))
    options = ("--only", "vanilla/pope", "--limit", 2, "--out", tmp_path / "out", "--device", "cpu", "--workers", 1)
    for line in ([matrix()], ["--matrix", matrix()]):
        for verb in ("run", "retry", "plan", "validate"):
            assert run(verb, *line, *options, "--force", "--quiet") == cli.DONE, verb
    assert run("--matrix", matrix(), *options, "--force", "--quiet") == cli.DONE
    assert [one.retry for one in asked] == [False, True, False, True, False]
    for one in asked:
        given = (one.matrix, one.only, one.limit, one.out, one.device, one.workers, one.force, one.quiet)
        assert given == (matrix(), "vanilla/pope", 2, tmp_path / "out", "cpu", 1, True, True)


def test_validate_checks_the_folder_and_the_cells_that_the_run_would_use(matrix, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("validate", matrix(), "--out", tmp_path / "file" / "out") == cli.USER
    assert "is a file, not a folder" in capsys.readouterr().out
    assert run("validate", matrix(), "--only", "fastv/gqa") == cli.DONE
    assert "1 cells in 1 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            ["plan"],
            f"MATRIX is missing: give a file, or one of {', '.join(BUNDLED)}. Example: run.py --matrix mini",
        ),
        (["plan", "mini", "--matrix", "paper"], "give one matrix, not two (got mini and --matrix paper)"),
    ],
)
def test_no_matrix_and_two_matrices_are_refused(line, message, capsys):
    assert run(*line) == cli.USER
    assert message in capsys.readouterr().err


def test_plan_of_the_paper_needs_no_checkpoint(capsys):
    assert run("plan", "paper", "--only", "hidrop-7b-64") == cli.DONE
    assert "64.00" in capsys.readouterr().out


def test_limit_asks_only_the_first_samples(matrix, tmp_path, capsys):
    arguments = ("--matrix", matrix(), "--out", tmp_path / "out", "--only", "vanilla/pope", "--limit", 2, "--json")
    assert run(*arguments) == cli.DONE
    [cell] = json.loads(capsys.readouterr().out.splitlines()[-1])["cells"]
    assert cell["n"] == 2


@pytest.mark.parametrize("text", [None, "no json"])
def test_report_of_a_folder_without_a_document_is_the_users_to_change(tmp_path, capsys, text):
    if text:
        (tmp_path / "leaderboard.json").write_text(text)
    assert run("report", tmp_path) == cli.USER
    assert "leaderboard.json" in capsys.readouterr().err


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
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("failed: tiny/fastv/pope: RuntimeError: out of memory")
    assert len(printed.err.splitlines()) == 1, "nothing but errors"
    asked = []
    monkeypatch.setattr(engine, "evaluate", lambda lm, cell: asked.append(cell.key) or inner(lm, cell))
    assert run("retry", file, "--out", out, "--json") == 0
    assert asked == ["tiny/fastv/pope"]
    assert len(json.loads(capsys.readouterr().out.splitlines()[-1])["cells"]) == 6, "the table has all rows"
    assert run("retry", file, "--out", out) == 2
    assert "nothing failed in the last run" in capsys.readouterr().err


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


def test_plan_and_validate_tell_whose_code_a_matrix_runs_before_it_is_imported(matrix, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "factor_of_it.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "mine.py").write_text("import factor_of_it")
    mine = '{name: "./mine.py:Mine", keep: 4}'
    path = matrix(f"{{vanilla: {{}}, mine: {mine}, both: {{stack: [mine: {mine}, vtw: {{exit: 3}}]}}}}")
    files = "factor_of_it.py, mine.py"
    told = f"This file runs code that is not part of hidrop:\n  methods.mine (./mine.py:Mine): {files}\n"
    for command in ("plan", "validate"):
        assert run(command, path) == cli.USER
        printed = capsys.readouterr()
        assert told + f"  methods.both (./mine.py:Mine): {files}" in printed.out
        where = f"methods.mine.name: method code {tmp_path / 'mine.py'} cannot be imported: RuntimeError: imported"
        assert (
            where in printed.out + printed.err
            and f"{tmp_path / 'factor_of_it.py'}, line 1" in printed.out + printed.err
        )
    as_a_checkpoint_has_it = '[{label: x, method: "./mine.py:Mine", fields: {keep: 4}}, {vtw: {exit: 3}}]'
    run("plan", matrix(f"{{vanilla: {{}}, both: {{stack: {as_a_checkpoint_has_it}}}}}"))
    assert f"methods.both (./mine.py:Mine): {files}" in capsys.readouterr().out
    assert run("plan", matrix("{vanilla: {}}")) == cli.DONE
    assert "not part of hidrop" not in capsys.readouterr().out


def test_a_stack_and_its_mistakes_in_a_matrix(matrix, capsys):
    good = "{vanilla: {}, both: {stack: [fastv: {layer: 1}, vtw: {exit: 4}], budget: 6}}"
    assert run("plan", matrix(good), "--json") == cli.DONE
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["entering"] for row in rows] == [[16] * 4, [16, 4, 4, 0]]
    for bad, message in (
        ("{x: {stack: [fastv: {layr: 1}, vtw: {exit: 4}]}}", "methods.x.stack: fastv: layr: unknown field of fastv"),
        ("{x: {stack: [fastv: {layer: 1}, vtw: {exit: 4}]}}", "methods.x on tiny: fastv: keep missing"),
        (
            "{x: {stack: [vtw: {exit: 2}, fastv: {layer: 2, keep: 4}]}}",
            "methods.x on tiny: fastv cuts after layer 2",
        ),
        ("{x: {stak: [vtw: {exit: 2}]}}", "methods.x.name: unknown method 'x'"),
    ):
        assert run("plan", matrix(bad)) == cli.USER
        assert message in capsys.readouterr().err


def test_validate_tells_whose_code_a_recipe_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "mine.py").write_text("raise RuntimeError('imported')")
    recipe = "name: own\nstart: mini:vanilla\nmethod: {name: './mine.py:Mine', keep: 4}\n"
    (tmp_path / "own.yaml").write_text(recipe + "lessons:\n  - {data: choices, steps: 4, batch: 8, lr: 0.002}\n")
    assert run("validate", "own.yaml") == cli.USER
    printed = capsys.readouterr()
    assert "This file runs code that is not part of hidrop:\n  method (./mine.py:Mine): mine.py\n" in printed.out
    assert "RuntimeError: imported" in printed.out + printed.err
