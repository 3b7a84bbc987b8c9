"""What must not pass unseen: failed samples that would count, other splits, files outside of the data's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evals.store.statistics import Row as Rows
from evals.store.statistics import task_stats
from evals.tasks import TaskSpec, data_digest, evaluate, missing
from evals.tasks.any_columns import decoded, images_in, undecoded
from evals.tasks.registry import add, get_task
from tests.evals.tasks.official.row import Row, picture
from tests.evals.tasks.official.stand_in import Answering

YAML = """
task: any_name
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: d.parquet}}}}
test_split: test
output_type: {output}
doc_to_text: question
doc_to_target: answer
doc_to_choice: [red, blue]
process_results: !function utils.process_results
metric_list:
  - {{metric: right, aggregation: {aggregation}, higher_is_better: true}}
"""
DOCS = [{"question": f"Which {n}?", "answer": "red", "index": 0} for n in range(6)]


@pytest.fixture(autouse=True)
def no_tasks_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.tasks.registry._own", {})


def own(
    folder: Path,
    utils: str,
    *,
    output: str = "generate_until",
    aggregation: str = "mean",
    docs: Any = DOCS,
    yaml: str = "",
) -> TaskSpec:
    Row("d.parquet", docs, (), None, ()).put(folder)
    (folder / "utils.py").write_text(utils)
    (folder / "mine.yaml").write_text(yaml or YAML.format(output=output, aggregation=aggregation))
    add("mine", folder / "mine.yaml")
    return TaskSpec("mine", "hub", "lmms-eval")


class Failing(Answering):
    """Cannot answer some documents."""

    def __init__(self, said: Any, failed: tuple[int, ...]) -> None:
        super().__init__(said)
        self.failures: Mapping[tuple[str, int], str] = {("mine", doc_id): "broken" for doc_id in failed}


GUESSES = "def process_results(doc, results):\n    return {'right': float(results[0] in ('red', ''))}\n"
READS = (
    "def process_results(doc, results):\n    return {'right': {'pred': results[0] or 'red', 'answer': doc['answer']}}\n"
    "def share(items):\n    return sum(i['pred'] == i['answer'] for i in items) / len(items)\n"
)


@pytest.mark.parametrize(("utils", "aggregation"), [(GUESSES, "mean"), (READS, "!function utils.share")])
def test_a_failed_sample_is_wrong_though_the_task_would_guess_it_right(
    utils: str, aggregation: str, tmp_path: Path
) -> None:
    spec = own(tmp_path, utils, aggregation=aggregation)
    assert evaluate(Failing(["red"] * 6, ()), spec).value == 1
    result = evaluate(Failing(["red", "red", "", "red", "", "blue"], (2, 4)), spec)
    assert result.value == 0.5 and result.n_failed == 2
    assert [sample["score"] for sample in result.samples] == [1, 1, 0, 1, 0, 0]


def test_a_failed_choice_is_wrong_though_its_choices_are_all_as_likely(tmp_path: Path) -> None:
    yaml = YAML.format(output="multiple_choice", aggregation="mean")
    yaml = yaml.replace("process_results: !function utils.process_results\n", "").replace(
        "metric: right", "metric: acc"
    )
    spec = own(tmp_path, "", yaml=yaml.replace("doc_to_target: answer", "doc_to_target: index"))
    result = evaluate(Failing([(0.1, 0.9)] * 4 + [(1e9, 1e9)] * 2, (4, 5)), spec)
    assert result.value == pytest.approx(4 / 6) and [s["score"] for s in result.samples] == [1, 1, 1, 1, 0, 0]


def test_another_split_and_another_configuration_are_not_taken(tmp_path: Path) -> None:
    docs = [{"question": "a", "answer": "b", "image": picture(0)}]
    Row("ChartQA/train-00000-of-00001.parquet", docs, (), None, ()).put(tmp_path)
    Row("DocVQA/data/validation-00000-of-00001.parquet", docs, (), None, ()).put(tmp_path)
    for name in ("chartqa", "infovqa_val"):
        [problem] = missing(TaskSpec(name, str(tmp_path), "lmms-eval"))
        assert f"{name}: no data in " in problem and "hf download" in problem


def test_a_readme_names_no_file_outside_of_its_folder(tmp_path: Path) -> None:
    docs = [{"question": "a", "answer": "b", "image": picture(0)}]
    readme = (
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: test, path: ../other/outside.parquet}\n---\n"
    )
    Row("other/outside.parquet", docs, (), None, ()).put(tmp_path)
    (tmp_path / "ChartQA").mkdir()
    (tmp_path / "ChartQA/README.md").write_text(readme)
    [problem] = missing(TaskSpec("chartqa", str(tmp_path), "lmms-eval"))
    assert "chartqa: no data in " in problem


def test_images_that_are_named_by_a_path_are_part_of_the_datas_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ChartQA"
    folder.mkdir()
    monkeypatch.chdir(folder)  # where the test's own file is written, its images have to be there
    (folder / "x.png").write_bytes(picture(0)["bytes"])
    docs = [{"type": "human_test", "question": "a", "answer": "b", "picture": {"bytes": None, "path": "x.png"}}]
    Row("data/test-00000-of-00001.parquet", docs, (), None, ()).put(folder)
    spec, digests = TaskSpec("chartqa", str(tmp_path), "lmms-eval"), []
    for number in (0, 1, 0):
        (folder / "x.png").write_bytes(picture(number)["bytes"])
        digests.append(data_digest(spec))
    assert digests[0] == digests[2] != digests[1]


def test_images_inside_of_structs_and_lists_stay_undecoded() -> None:
    import datasets

    inner = {"img": datasets.Image(), "text": datasets.Value("string")}
    features = datasets.Features({"one": inner, "many": datasets.List(inner)})
    entry = {"img": picture(1), "text": "x"}
    bare = undecoded(datasets.Dataset.from_list([{"one": entry, "many": [entry, entry]}], features=features))
    assert len(images_in(bare[0])) == 3
    shown = decoded(bare[0], lambda image: "decoded")
    assert shown["one"] == {"img": "decoded", "text": "x"} and shown["many"][1]["img"] == "decoded"


def test_a_column_that_says_nothing_about_an_image_makes_no_cluster(tmp_path: Path) -> None:
    docs = [{**doc, "image_source": "COCO", "image_id": None} for doc in DOCS]
    spec = own(tmp_path, GUESSES, docs=docs)
    result = evaluate(Answering(["red", "blue"] * 3), spec)
    assert len({sample["image_key"] for sample in result.samples}) == 6
    low, high = task_stats("mine", "lmms-eval", {"a": Rows(result.samples, None)})["a"]["interval"]
    assert low < 0.5 < high


def test_an_aggregation_that_fails_on_some_resampled_lists_costs_the_interval_only(tmp_path: Path) -> None:
    """It divides by the number of documents of one kind, and a third of all draws lack it."""
    utils = (
        "def process_results(doc, results):\n    return {'right': [doc['question'], results[0]]}\n"
        "def share(items):\n    own = [i for i in items if i[0] == 'Which 0?']\n"
        "    return sum(i[1] == 'red' for i in items) / len(own) / len(items) ** 2\n"
    )
    spec = own(tmp_path, utils, aggregation="!function utils.share")
    result = evaluate(Answering(["red", "blue"] * 3), spec)
    assert result.value == pytest.approx(3 / 36)
    assert task_stats("mine", "lmms-eval", {"a": Rows(result.samples, None)}) == {}


def test_a_preparation_that_shuffles_gives_the_same_documents_each_time(tmp_path: Path, monkeypatch: Any) -> None:
    import random

    utils = (
        f"{GUESSES}import random\ndef shuffled(dataset):\n"
        "    return dataset.select(random.sample(range(len(dataset)), len(dataset)))\n"
    )
    yaml = YAML.format(output="generate_until", aggregation="mean") + "process_docs: !function utils.shuffled\n"
    spec, contexts = own(tmp_path, utils, yaml=yaml), []
    for seed in range(3):
        random.seed(seed)
        np.random.seed(seed)
        lm = Answering(["red"] * 6)
        evaluate(lm, spec)
        contexts.append(lm.contexts)
    assert contexts[0] == contexts[1] == contexts[2] != {n: f"Which {n}?" for n in range(6)}
    assert get_task("mine").name == "mine"
