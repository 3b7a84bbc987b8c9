"""From a matrix to a document: any tasks of lmms-eval with the embedded model, against `lmms-eval --model hidrop`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals import cli
from evals.tasks.index import index
from tests.evals.tasks.official import embedded

PREFIX = "local_"
METRICS = {"pope_adv": "pope_f1_score"}  # the one that gives the value, where it is not the first
UNSCORED = {"docvqa_test": "to submit", "mmvet": "to judge"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of all tasks, the files of the user's own, and a matrix with all of them."""
    folder = tmp_path_factory.mktemp("any")
    rows = embedded.rows()
    for row in rows.values():
        row.put(folder / "data")
    embedded.put_own(folder / "own")
    fields = {name: f"data: {folder / 'data'}" for name in rows} | {"mine": "yaml: own/mine.yaml"}
    for name, metric in METRICS.items():
        fields[name] += f", metric: {metric}"
    tasks = "\n".join(f"  {name}: {{{own}}}" for name, own in fields.items())
    (folder / "any.yaml").write_text(MATRIX + tasks)
    return folder


MATRIX = """
name: any
protocol: lmms-eval
dtype: float32
device: cpu
batch_size: 1
models:
  mini: {source: "mini:vanilla"}
methods:
  vanilla: {}
profile: null
tasks:
"""


@pytest.fixture(scope="module")
def document(folder: Path) -> dict[str, Any]:
    """What a run of the matrix writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evals.tasks.rehearsal.rehearsed", lambda *_: [])  # in a process of its own: tested elsewhere
        patch.chdir(folder)
        assert cli.main(["--matrix", "any.yaml", "--out", "out", "--device", "cpu", "--quiet"]) == cli.DONE
    return json.loads((folder / "out/leaderboard.json").read_text())


@pytest.fixture(scope="module")
def official(folder: Path) -> dict[str, dict[str, Any]]:
    """What lmms-eval's own evaluator gives with our model class, on its own YAML files with local data."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.tasks import TaskManager

    from evals.model.plugin import manifests
    from evals.tasks.build import quiet

    for manifest in manifests():
        MODEL_REGISTRY_V2.register_manifest(manifest, overwrite=True)
    names = [name for name in embedded.rows() if name not in UNSCORED]
    for name in names:
        (folder / "yaml").mkdir(exist_ok=True)
        (folder / "yaml" / f"{name}.yaml").write_text(_local(name, folder / "data" / embedded.rows()[name].file))
    with quiet(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "own")  # there datasets looks for the pattern of the user's own files
        manager = TaskManager(include_defaults=False, include_path=[str(folder / "yaml"), str(folder / "own")])
        arguments = SimpleNamespace(output_path=str(folder / "theirs"), process_with_media=True)
        found = simple_evaluate(
            model="hidrop",
            model_args="pretrained=mini:vanilla,dtype=float32",
            tasks=[*(PREFIX + name for name in names), "mine"],
            batch_size=1,
            device="cpu",
            task_manager=manager,
            bootstrap_iters=0,
            cli_args=arguments,
        )["results"]
    return {name.removeprefix(PREFIX): values for name, values in found.items()}


def _local(name: str, file: Path) -> str:
    """lmms-eval's own YAML file of a task, with another place of the data and another name."""
    entry = index().tasks[name]
    lines = [
        f"include: {entry.path}",
        f"task: {PREFIX}{name}",
        "dataset_path: parquet",
        "dataset_name: null",
        f"dataset_kwargs: {{data_files: {{{entry.split}: {json.dumps(str(file))}}}}}",
    ]
    return "\n".join(lines)


def test_every_cell_has_lmms_evals_own_value(document: dict[str, Any], official: dict[str, dict[str, Any]]) -> None:
    cells = {cell["task"]: cell for cell in document["cells"]}
    assert set(cells) == {*official, *UNSCORED} and document["failed"] == []
    for name, values in official.items():
        cell = cells[name]
        found = {key.split(",")[0]: value for key, value in values.items() if "," in key and "stderr" not in key}
        assert cell["metric"] == METRICS.get(name, cell["metric"]) and cell["n_failed"] == 0
        assert cell["value"] == found[cell["metric"]], name
        assert cell["extra"] == {metric: found[metric] for metric in cell["extra"]}
    assert 0 < cells["docvqa_val"]["value"] < 1 and cells["ocrbench"]["value"] > 0, "some answers are right"
    assert set(cells["pope_adv"]["extra"]) == {"pope_accuracy", "pope_precision", "pope_recall", "pope_yes_ratio"}
    assert all(cell["stats"]["interval"] for name, cell in cells.items() if name not in UNSCORED)


def test_a_users_own_yaml_file_is_run_with_its_functions_and_its_data(document: dict[str, Any]) -> None:
    """Its value is the longest answer plus a number of the document; a smaller one is better."""
    [cell] = [cell for cell in document["cells"] if cell["task"] == "mine"]
    assert cell["n"] == 2 and cell["metric"] == "length" and cell["value"] > 20 and cell["lower_is_better"]
    assert cell["extra"] == {"said": 1.0}


@pytest.mark.parametrize("name", UNSCORED)
def test_a_cell_that_is_scored_elsewhere_says_so(name: str, document: dict[str, Any], folder: Path) -> None:
    [cell] = [cell for cell in document["cells"] if cell["task"] == name]
    assert cell["value"] is None and cell["unscored"] == UNSCORED[name]
    assert UNSCORED[name] in (folder / "out/leaderboard.md").read_text()


def test_the_files_for_the_server_and_the_judge_are_in_the_results(document: dict[str, Any], folder: Path) -> None:
    [judged] = (folder / "out/submissions").rglob("*.jsonl")
    assert re.fullmatch(r"mini\.vanilla\.mmvet\.[0-9a-f]+/answers\.jsonl", _below(judged, 2))
    assert len(judged.read_text().splitlines()) == 2
    [path] = (folder / "out/submissions").rglob("*.json")
    assert re.fullmatch(r"mini\.vanilla\.docvqa_test\.[0-9a-f]+/docvqa_test_for_submission\.json", _below(path, 2))
    answers = json.loads(path.read_text())
    assert [answer["questionId"] for answer in answers] == [0, 1, 2] and all(answer["answer"] for answer in answers)


def _below(path: Path, count: int) -> str:
    return "/".join(path.parts[-count:])


def test_running_again_asks_and_scores_nothing(
    document: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evals.run import engine

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished cell ran again")

    for name in ("evaluate", "ask"):
        monkeypatch.setattr(engine, name, again)
    monkeypatch.setattr("evals.tasks.rehearsal.rehearsed", lambda *_: [])
    monkeypatch.chdir(folder)
    assert cli.main(["--matrix", "any.yaml", "--out", "out", "--device", "cpu", "--quiet"]) == cli.DONE
    now = json.loads((folder / "out/leaderboard.json").read_text())
    assert {**now, "date": None} == {**document, "date": None}
