from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals import tasks
from evals.tasks import PROTOCOLS, TASKS, TaskSpec, data_digest, evaluate, evaluation, get_task, missing
from hidrop.errors import UserError
from tests.evals.tasks.table import CASES

Write = Callable[[list[dict[str, Any]], Path], None]
Rows = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a task with local data touched the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def sometimes(doc: dict[str, Any], context: str) -> str:
    """Some right, some wrong, some odd answers, depending on the document only."""
    if "answers" in doc:
        return "The NOKIA." if doc["question_id"] == 0 else "twelve"
    if "index" in doc:
        return {7: doc["answer"], 1_000_007: f"**{doc['answer']}**", 2_000_007: f"({doc['answer']})."}.get(
            doc["index"], doc["B"] if doc["index"] == 9 else "Option B it is, I am sure"
        )
    if "category" in doc:
        return {"adversarial": "Yes.", "popular": doc["answer"].upper(), "random": "No, none"}[doc["category"]]
    return f"{doc['answer'].upper()}!" if doc["id"] != "1" else "a no"


def test_the_protocols_read_the_same_answers_differently(data_folder: Path, oracle: Any) -> None:
    values = {
        protocol: evaluate(oracle(sometimes), TaskSpec("pope", str(data_folder), protocol)).value
        for protocol in PROTOCOLS
    }
    # llava reads "Yes.", but takes a "NO" for a yes: 2/3, 2/3 and 0 over the categories.
    # lmms-eval lowers the case, but "yes." and "no, none" are neither: only the popular ones count.
    assert values["llava"] == pytest.approx(100 * (2 / 3 + 2 / 3 + 0) / 3)
    assert values["lmms-eval"] == pytest.approx(100)


def test_samples_carry_what_paired_statistics_need(data_folder: Path, oracle: Any) -> None:
    result = evaluate(oracle(), TaskSpec("mmbench_en_dev", str(data_folder)))
    assert [s["doc_id"] for s in result.samples] == list(range(5))
    assert [s["group"] for s in result.samples] == [7, 7, 7, 9, 9]
    assert result.extra["l2_attribute"] == result.extra["l2_object"] == 100
    gqa = evaluate(oracle(), TaskSpec("gqa", str(data_folder)))
    assert [s["image_key"] for s in gqa.samples] == ["n0", "n0", "n1"]
    assert [s["target"] for s in gqa.samples] == ["red", "no", "2"]
    assert len({s["image_key"] for s in result.samples}) == 2


@pytest.mark.parametrize(("limit", "rows"), [(1, 3), (3, 3), (4, 3), (5, 5), (99, 5), (None, 5)])
def test_a_limit_keeps_circular_groups_whole(limit: int | None, rows: int, data_folder: Path, oracle: Any) -> None:
    assert evaluate(oracle(), TaskSpec("mmbench_en_dev", str(data_folder)), limit=limit).n == rows


def test_a_limit_takes_the_first_documents(data_folder: Path, oracle: Any) -> None:
    result = evaluate(oracle(), TaskSpec("pope", str(data_folder)), limit=2)
    assert [s["category"] for s in result.samples] == ["adversarial"] * 2
    with pytest.raises(ValueError, match="limit"):
        evaluate(oracle(), TaskSpec("pope", str(data_folder)), limit=0)


def test_a_task_is_built_once_for_all_cells_and_anew_for_other_data(
    tmp_path: Path, make_rows: Rows, write_parquet: Write, oracle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, real = [], evaluation.build
    monkeypatch.setattr(evaluation, "build", lambda *parts: built.append(parts) or real(*parts))
    spec, path = TaskSpec("pope", str(tmp_path)), tmp_path / "pope/test.parquet"
    write_parquet(make_rows("pope"), path)
    first = evaluate(oracle(), spec, limit=2)
    wrong = evaluate(oracle(lambda doc, context: "purple"), spec)
    assert evaluate(oracle(), spec, limit=2) == first and len(built) == 1
    assert (first.n, first.value, wrong.n) == (2, 100.0, 6) and wrong.value != 100
    write_parquet(make_rows("pope")[:-1], path)
    assert evaluate(oracle(), spec).n == 5 and len(built) == 2


def test_missing_says_which_columns_and_images_are_not_there(
    tmp_path: Path, make_rows: Rows, write_parquet: Write
) -> None:
    write_parquet([{"question": "q", "answer": "no"}], tmp_path / "pope/test.parquet")
    assert {p.split("'")[1] for p in missing(TaskSpec("pope", str(tmp_path)))} == {"category", "image", "question_id"}
    write_parquet([{"question": "q", "answer": "a", "imageId": "1"}], tmp_path / "gqa" / CASES["gqa"].file)
    [problem] = missing(TaskSpec("gqa", str(tmp_path)))
    assert "testdev_balanced_images" in problem and "hf download" in problem


def test_a_damaged_file_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "pope").mkdir()
    (tmp_path / "pope/test.parquet").write_bytes(b"no parquet")
    [problem] = missing(TaskSpec("pope", str(tmp_path)))
    assert "cannot read" in problem


def test_data_digest_follows_the_content(tmp_path: Path, make_rows: Rows, write_parquet: Write) -> None:
    spec, path = TaskSpec("pope", str(tmp_path)), tmp_path / "pope/test.parquet"
    write_parquet(make_rows("pope"), path)
    before = data_digest(spec)
    assert before == data_digest(spec) and len(before) == 64
    write_parquet(make_rows("pope")[:-1], path)
    assert data_digest(spec) != before


def test_importing_the_tasks_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, evals.tasks; print(sorted({'torch', 'datasets', 'lmms_eval', 'PIL'} & set(sys.modules)))"
    root = Path(tasks.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_exported_tasks_are_official_ones_on_local_data(data_folder: Path, tmp_path: Path, oracle: Any) -> None:
    from types import SimpleNamespace

    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from evals.tasks.export import export

    names = export(tmp_path / "tasks", str(data_folder)).names
    exportable = [name for name in TASKS if not get_task(name).source.videos]
    assert names == [f"hidrop_{data_folder.name}_{name}" for name in exportable]
    manager = TaskManager(include_defaults=False, include_path=[str(tmp_path / "tasks")])
    results = simple_evaluate(
        model=oracle(),
        tasks=list(names),
        task_manager=manager,
        bootstrap_iters=0,
        cli_args=SimpleNamespace(output_path=str(tmp_path), process_with_media=True),
    )["results"]
    for name, exported in zip(exportable, names, strict=True):
        task, found = get_task(name), results[exported]
        if task.unscored is None:
            assert found[f"{task.official},none"] * task.scale == pytest.approx(CASES[name].value)
        else:
            # lmms-eval has no value either, and writes its own file for the server.
            assert not found.get(f"{task.official},none") and "submission,none" in found


def test_export_command_prints_how_to_use_the_tasks(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from evals.cli import main

    assert main(["export-tasks", str(tmp_path / "t"), "--data", str(data_folder)]) == 0
    assert "--include_path" in capsys.readouterr().out
    assert main(["export-tasks", str(tmp_path / "t"), "--data", str(tmp_path / "nothing")]) == 2
    assert "hf download" in capsys.readouterr().err


def test_what_can_be_exported_is_and_the_rest_is_skipped_with_the_reason(
    data_folder: Path, tmp_path: Path, write_parquet: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    from evals.cli import main
    from evals.tasks.export import export

    data = tmp_path / "my data[1]"
    data.mkdir()
    (data / "pope").symlink_to(data_folder / "pope")
    rows = [{key: value for key, value in doc.items() if key != "image"} for doc in CASES["gqa"].documents]
    write_parquet(rows, data / "gqa" / CASES["gqa"].file)
    images = [{"id": doc["imageId"], "image": doc["image"]} for doc in CASES["gqa"].documents[1:]]
    write_parquet(images, data / "gqa/testdev_balanced_images/testdev-00000-of-00001.parquet")
    write_parquet(
        [{**doc, "answers": []} for doc in CASES["textvqa_val"].documents], data / "textvqa/validation.parquet"
    )
    found = export(tmp_path / "tasks", str(data))
    assert found.names == ["hidrop_my_data_1__pope"]
    assert {name: why.split(": ")[0] for name, why in found.skipped.items()} == {
        name: name for name in TASKS if name != "pope"
    }
    assert "images are in files of their own" in found.skipped["gqa"]
    assert "hf download" in found.skipped["mmbench_en_dev"]
    assert "0 of at least 4 references" in found.skipped["textvqa_val"]
    assert [path.stem for path in (tmp_path / "tasks").iterdir()] == found.names
    assert main(["export-tasks", str(tmp_path / "t"), "--data", str(data)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("skipped: ") == len(TASKS) - 1 and printed.endswith("--tasks hidrop_my_data_1__pope\n")


def test_an_exported_task_reads_a_folder_of_any_name(tmp_path: Path, write_parquet: Write) -> None:
    import yaml
    from datasets import load_dataset

    from evals.tasks.export import export

    write_parquet(CASES["pope"].documents, tmp_path / "a[b]/pope/test.parquet")
    [name] = export(tmp_path / "tasks", str(tmp_path / "a[b]")).names
    text = (tmp_path / f"tasks/{name}.yaml").read_text()
    kwargs = yaml.safe_load(text)["dataset_kwargs"]
    assert len(load_dataset("parquet", split="test", cache_dir=str(tmp_path / "cache"), **kwargs)) == 6


def test_the_hubs_data_are_not_exported(tmp_path: Path) -> None:
    from evals.tasks.export import export

    with pytest.raises(UserError, match="lmms-eval has these tasks itself"):
        export(tmp_path / "tasks", "hub")
