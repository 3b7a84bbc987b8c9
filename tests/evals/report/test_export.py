"""What `export --format hf` writes is read by Hugging Face's own libraries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from evals.cli import main
from evals.store.folders import read_document, samples_of
from evals.store.result_document import cell_key
from evals.tasks.registry import get_task


@pytest.fixture(scope="module")
def exported(little: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    assert main(["export", str(little), "--format", "hf", "--out", str(folder), "--quiet"]) == 0
    return folder


def test_the_folder_loads_as_a_data_set(exported: Path, little: Path, tmp_path: Path) -> None:
    import datasets

    samples, cells = (
        datasets.load_dataset(str(exported), name, split="test", cache_dir=str(tmp_path))
        for name in ("samples", "cells")
    )
    document = read_document(little)
    assert [f"{row['model']}/{row['label']}/{row['task']}" for row in cells] == [cell_key(c) for c in document["cells"]]
    assert [row["value"] for row in cells] == [cell["value"] for cell in document["cells"]]
    cell = document["cells"][0]
    own = [row for row in samples if row["cell"] == cell["id"]]
    known = samples_of(little, cell)
    assert known is not None
    assert [(row["doc_id"], row["answer"], row["score"]) for row in own] == [
        (sample["doc_id"], sample["answer"], sample["score"]) for sample in known
    ]
    assert json.loads(own[0]["target"]) == known[0]["target"]
    # Without a name it is the samples.
    assert datasets.load_dataset(str(exported), split="test", cache_dir=str(tmp_path)).num_rows == len(samples)


def test_each_model_has_its_evaluation_results_for_a_model_card(exported: Path, little: Path) -> None:
    from huggingface_hub import ModelCard

    document = read_document(little)
    names = sorted(path.stem for path in (exported / "model-index").glob("*.md"))
    assert names == sorted({cell["model"] for cell in document["cells"]})
    card = ModelCard.load(exported / "model-index/plain.md")
    results = card.data.eval_results
    assert card.data.model_name == "plain"
    cells = {(c["label"], c["task"]): c for c in document["cells"] if c["model"] == "plain"}
    assert len(results) == len(cells)
    for result in results:
        cell = cells.pop((result.metric_args["row"], result.dataset_type.removeprefix("hidrop-mini-")))
        assert result.metric_value == pytest.approx(cell["value"], abs=1e-4)
        assert (result.metric_type, result.task_type) == (cell["metric"], "visual-question-answering")
        assert result.metric_args["method"] == cell["method"] and result.metric_args["samples"] == cell["n"]
        assert result.dataset_args == {"protocol": "lmms-eval", "limit": 16}
    assert cells == {}


def test_data_of_the_hub_is_named_by_its_repository(little: Path) -> None:
    from evals.report.model_index import model_index

    document = read_document(little)
    document["data"]["gqa"] = "hub"
    (index,) = model_index(document, "plain")
    dataset = next(one["dataset"] for one in index["results"] if one["dataset"]["name"] == "GQA")
    source = get_task("gqa").source
    assert (dataset["type"], dataset["split"]) == (source.repository, source.split)
    assert dataset["args"] == {"protocol": "lmms-eval", "limit": 16}


def test_results_without_journals_are_exported_from_their_table(exported: Path, little: Path, tmp_path: Path) -> None:
    shutil.copy(little / "leaderboard.json", tmp_path)
    shutil.copy(exported / "samples.parquet", tmp_path)
    assert main(["export", str(tmp_path), "--format", "hf", "--quiet"]) == 0
    assert (tmp_path / "export/samples.parquet").read_bytes() == (exported / "samples.parquet").read_bytes()
    assert (tmp_path / "export/cells.parquet").read_bytes() == (exported / "cells.parquet").read_bytes()
