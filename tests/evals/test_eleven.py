"""The paper's eleven tasks from files to a table, on fabricated rows whose values are worked out by hand (eleven.py).

The embedded model really reads every prompt with every method, so that images, tokens and traces are real. Its answers
are then replaced by known ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from evals import cli
from evals.matrix.schema import BUNDLED
from evals.model.lmms_model import HidropLlava
from evals.report.rows import rows_of
from evals.tasks import get_task
from tests.evals.eleven import ELEVEN, SUBMITTED
from tests.evals.eleven_files import ALL, put_as_on_the_hub, put_plainly, tasks_of
from tests.evals.golden import BLIND, FASTV, VANILLA, Fabricated, Row
from tests.evals.tasks.table import CASES

LABELS = (VANILLA, FASTV, BLIND)


def matrix(folder: Path, protocol: str) -> dict[str, Any]:
    """The bundled matrix with three methods on the embedded model, and the tasks that a server scores.

    Under lmms-eval the data has the versions that lmms-eval knows.
    """
    content: dict[str, Any] = yaml.safe_load((BUNDLED / "paper-full.yaml").read_text())
    tasks = {**content["tasks"], "vqav2_test": {"version": "testdev"}, "vizwiz_vqa_test": {}}
    if protocol != "llava":
        tasks = {name: {} for name in tasks}
    return {
        "name": "eleven",
        "protocol": protocol,
        "device": "cpu",
        "dtype": "float32",
        "batch_size": 4,
        "models": {"mini": {"source": "mini:vanilla"}},
        "methods": {VANILLA: {}, FASTV: {"layer": 1, "budget": "25%"}, BLIND: {}},
        "tasks": {name: {**entry, "data": str(folder)} for name, entry in tasks.items()},
        "profile": None,
    }


@dataclass(frozen=True)
class Ran:
    """A finished run, and the way to run it again."""

    protocol: str
    out: Path
    arguments: Sequence[str]
    document: dict[str, Any]
    tasks: dict[str, Fabricated]

    def cell(self, task: str, label: str) -> dict[str, Any]:
        [found] = [cell for cell in self.document["cells"] if (cell["task"], cell["label"]) == (task, label)]
        return found

    def journal(self, task: str, label: str, kind: str) -> list[dict[str, Any]]:
        """The records of a kind in a cell's journal, by document: answers are stored in the order of their batches."""
        [path] = self.out.glob(f"samples/*.{self.cell(task, label)['id'][:12]}.jsonl")
        records = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return sorted((record for record in records if record["kind"] == kind), key=lambda record: record["doc_id"])

    def file_for_the_server(self, task: str, label: str) -> bytes:
        [path] = self.out.glob(f"submissions/*.{self.cell(task, label)['id'][:12]}/{task}.json")
        return path.read_bytes()


def answering(patch: pytest.MonkeyPatch, tasks: dict[str, Fabricated]) -> None:
    """Replace the one token that the model generates by the known answer."""
    own = HidropLlava._made

    def made(self: HidropLlava, prompts: Any, reduction: Any) -> list[Row]:
        found = []
        for prompt, record in zip(prompts, own(self, prompts, reduction), strict=True):
            of = tasks[prompt.request.task]
            text = of.answers[self.reducer.name][of.asked[prompt.request.doc_id]]
            found.append({**record, "answer": text})
        return found

    patch.setattr(HidropLlava, "_made", made)
    patch.setattr(HidropLlava, "_longest", lambda self, settings, width: 1)


@pytest.fixture(scope="module", params=["llava", pytest.param("lmms-eval", marks=pytest.mark.slow)])
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    protocol, folder = request.param, tmp_path_factory.mktemp("eleven")
    data, out, file = folder / "data", folder / "out", folder / "eleven.yaml"
    (put_as_on_the_hub if protocol == "llava" else put_plainly)(data)
    file.write_text(yaml.safe_dump(matrix(data, protocol), allow_unicode=True, sort_keys=False))
    arguments = ["--matrix", str(file), "--out", str(out), "--quiet"]
    tasks = tasks_of(protocol)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(folder / "datasets"))
        for module in ("pope_questions", "vqav2_questions"):
            patch.setattr(f"evals.tasks.{module}.cache_folder", lambda: folder / "converted")
        answering(patch, tasks)
        assert cli.main(arguments) == 0
        yield Ran(protocol, out, arguments, json.loads((out / "leaderboard.json").read_text()), tasks)


def test_every_task_has_a_cell_for_every_method_and_no_sample_failed(ran: Ran) -> None:
    cells = {(cell["task"], cell["label"]): cell for cell in ran.document["cells"]}
    assert set(cells) == {(task, label) for task in ran.tasks for label in LABELS} and not ran.document["failed"]
    for (task, label), cell in cells.items():
        assert (cell["n"], cell["n_failed"]) == (len(ran.tasks[task].asked), 0)
        imaged = [record for record in ran.journal(task, label, "answer") if record["visual_tokens"]]
        assert {record["visual_tokens"] for record in imaged} == ({100, 200} if task == "seedbench" else {100})
        assert cell["share"] == {VANILLA: 1, BLIND: 0}.get(label, pytest.approx(0.25, abs=0.01))
    assert [record["visual_tokens"] for record in ran.journal("scienceqa_img", FASTV, "answer")] == [100, 100, 0, 100]


def test_validate_says_what_is_odd_about_the_data(ran: Ran, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", *ran.arguments[:2]]) == 0
    told = capsys.readouterr().out
    assert "seedbench: 2 more rows of the files are not asked: they are about videos" in told
    assert "scienceqa_img: 1 of 4 rows have no image and are asked as text" in told
    testdev = "vqav2_test: 1 more rows of the files are not asked: they are not in test-dev"
    assert (testdev in told) == (ran.protocol == "llava")


@pytest.mark.parametrize("task", ELEVEN)
def test_values_scores_and_further_metrics_are_those_worked_out_by_hand(task: str, ran: Ran) -> None:
    of = ran.tasks[task]
    for label in LABELS:
        golden, cell = of.golden(ran.protocol, label), ran.cell(task, label)
        assert cell["value"] == pytest.approx(golden.value, abs=1e-9), label
        assert cell["percent_of_vanilla"] == pytest.approx(golden.percent, abs=1e-9), label
        assert cell["extra"] == pytest.approx(dict(golden.extra), abs=1e-9), label
        records = ran.journal(task, label, "score")
        assert [record["doc_id"] for record in records] == list(range(len(of.asked)))
        assert [record["score"] for record in records] == pytest.approx(golden.scores, abs=1e-12), label
        said = [record["answer"] for record in ran.journal(task, label, "answer")]
        assert said == [of.answers[label][row] for row in of.asked]


def test_the_mean_of_a_row_is_that_of_the_eleven_percentages(ran: Ran) -> None:
    """Those of FastV under LLaVA's protocol add up to 653.89, without an image to 283.33."""
    means = {row.label: row.percent_of_vanilla for row in rows_of(ran.document)}
    hundred, third = 100, 100 / 3
    sums = {
        "llava": {
            FASTV: 25 + third + hundred + 50 + 190 / 3 + hundred + 190 / 3 + 190 / 3 + 500 / 9 + 50 + 50,
            BLIND: 25 + third + 0 + 25 + 0 + third + third + 0 + 200 / 3 + 50 + 50 / 3,
        },
        "lmms-eval": {
            FASTV: 25 + third + hundred + 75 + 30 + 50 + 190 / 3 + 190 / 3 + 50 + third + 50,
            BLIND: 25 + third + 0 + 25 + 0 + 25 + third + 0 + 800 / 11 + 200 / 3 + 50 / 3,
        },
    }[ran.protocol]
    assert means == pytest.approx({VANILLA: 100, **{label: total / 11 for label, total in sums.items()}})


# The servers' files. LLaVA's has normalised answers, and "" where test-dev does not ask; lmms-eval's are as they were.
FILES = {
    ("llava", "vqav2_test", VANILLA): b'[{"question_id": 262148001, "answer": "frisbee"}, '
    b'{"question_id": 393225000, "answer": "caf\\u00e9 2"}, {"question_id": 262148000, "answer": ""}]',
    ("llava", "vqav2_test", FASTV): b'[{"question_id": 262148001, "answer": ""}, '
    b'{"question_id": 393225000, "answer": "2"}, {"question_id": 262148000, "answer": ""}]',
    ("lmms-eval", "vqav2_test", VANILLA): b'[{"question_id": 262148000, "answer": "the floor"}, '
    b'{"question_id": 262148001, "answer": "The Frisbee."}, {"question_id": 393225000, "answer": "Caf\\u00e9, two"}]',
    ("lmms-eval", "vqav2_test", FASTV): b'[{"question_id": 262148000, "answer": ""}, '
    b'{"question_id": 262148001, "answer": ""}, {"question_id": 393225000, "answer": "Two"}]',
    ("both", "vizwiz_vqa_test", VANILLA): b'[{"image": "VizWiz_test_00000000.jpg", "answer": "unanswerable"}, '
    b'{"image": "VizWiz_test_00000001.jpg", "answer": "coke"}]',
    ("both", "vizwiz_vqa_test", FASTV): b'[{"image": "VizWiz_test_00000000.jpg", "answer": ""}, '
    b'{"image": "VizWiz_test_00000001.jpg", "answer": "10"}]',
}


@pytest.mark.parametrize("task", SUBMITTED)
def test_a_task_that_a_server_scores_has_the_file_written_by_hand(task: str, ran: Ran) -> None:
    for label in (VANILLA, FASTV):
        cell = ran.cell(task, label)
        assert cell["unscored"] == "to submit" and cell["value"] is cell["percent_of_vanilla"] is None
        wanted = FILES.get((ran.protocol, task, label)) or FILES["both", task, label]
        assert ran.file_for_the_server(task, label) == wanted
    table = (ran.out / "leaderboard.md").read_text()
    assert "Not scored here, and left out of % of vanilla: VQAv2, VizWiz" in table


def test_a_second_run_computes_nothing_again(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    def contents() -> dict[str, bytes]:
        kept = [*ran.out.glob("samples/*.jsonl"), *ran.out.glob("submissions/*/*")]
        return {str(path): path.read_bytes() for path in kept}

    def refused(*_: Any) -> None:
        raise AssertionError("a finished cell was run again")

    before = contents()
    monkeypatch.setattr("evals.run.engine.load", refused)
    assert cli.main(list(ran.arguments)) == 0
    again = json.loads((ran.out / "leaderboard.json").read_text())
    assert contents() == before and len(before) == 3 * 13 + 3 * 2
    assert {**again, "date": None} == {**ran.document, "date": None}


def test_mmstar_is_asked_by_lmms_evals_protocol_in_llavas_table(ran: Ran) -> None:
    protocols = {"llava": {"mmstar": "lmms-eval"}, "lmms-eval": {}}[ran.protocol]
    assert ran.document.get("protocols", {}) == protocols
    assert ran.cell("mmstar", VANILLA)["metric"] == "average of 3 of 18 sub-categories"
    assert ran.cell("mme", VANILLA)["metric"].endswith("of 2 of 10 sub-tasks")


@pytest.mark.slow
@pytest.mark.parametrize("label", LABELS)
def test_the_value_is_that_of_lmms_evals_own_evaluator_on_the_same_answers(
    label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lmms-eval reads the same files by its own configuration, in the order of the rows."""
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from evals.tasks.export import export

    class Recorded(lmms):
        is_simple = True

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        def generate_until_multi_round(self, requests: Any) -> Any:
            raise NotImplementedError

        def generate_until(self, requests: Any) -> list[str]:
            places = [(request.args[4].removeprefix("hidrop_data_"), request.args[3]) for request in requests]
            return [ALL[task].answers[label][row] for task, row in places]

    monkeypatch.chdir(tmp_path)  # SEED's aggregation writes a file to the current folder
    put_plainly(tmp_path / "data")
    names = export(tmp_path / "tasks", str(tmp_path / "data")).names
    assert names == [f"hidrop_data_{name}" for name in CASES if name in ALL]
    found = simple_evaluate(
        model=Recorded(),
        tasks=names,
        task_manager=TaskManager(include_defaults=False, include_path=[str(tmp_path / "tasks")]),
        bootstrap_iters=0,
        cli_args=SimpleNamespace(output_path=str(tmp_path), process_with_media=True),
    )["results"]
    for name in ELEVEN:
        task, value = get_task(name), ALL[name].lmms_eval[label].value
        assert found[f"hidrop_data_{name}"][f"{task.official},none"] * task.scale == pytest.approx(value), name
    if label != BLIND:
        for name in SUBMITTED:
            [path] = tmp_path.rglob(f"*{name.removesuffix('_test')}*test*.json")
            wanted = FILES.get(("lmms-eval", name, label)) or FILES["both", name, label]
            assert path.read_bytes() == wanted
