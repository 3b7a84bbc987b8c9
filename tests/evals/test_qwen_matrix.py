"""The bundled matrix `qwen`, run from end to end on tiny random checkpoints of the same depths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals import cli
from evals.matrix.schema import BUNDLED
from tests import tiny_checkpoints

DEPTHS = {"qwen2.5-vl-7b": ("qwen2_5_vl", 28), "qwen3-vl-8b": ("qwen3_vl", 36)}


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled file with sources, device and data replaced, and nothing else."""
    folder = tmp_path_factory.mktemp("qwen")
    content: dict[str, Any] = yaml.safe_load((BUNDLED / "qwen.yaml").read_text())
    for name, (family, layers) in DEPTHS.items():
        made = tiny_checkpoints.write(family, folder / name, text_config={"num_hidden_layers": layers})
        content["models"][name] = {"source": str(made)}
    content |= {"device": "cpu", "dtype": "float32", "tasks": {task: {"data": "mini"} for task in content["tasks"]}}
    content["profile"] = None
    (folder / "qwen.yaml").write_text(yaml.safe_dump(content))
    return folder / "qwen.yaml"


def test_plan_and_validate_are_complete(matrix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", str(matrix), "--quiet"]) == 0, capsys.readouterr().err
    assert cli.main(["plan", "qwen", "--json"]) == 0  # the bundled one, without files
    rows = json.loads(capsys.readouterr().out)["rows"]
    for share in (33.3, 22.2, 11.1):
        met = [row for row in rows if row["budget"] == f"{share}%"]
        assert len(met) == 2 * 10
        assert all(abs(100 * row["share"] - share) < 0.2 for row in met)


@pytest.mark.slow
def test_every_method_runs_and_every_task(matrix: Path, tmp_path: Path) -> None:
    """All methods on GQA, whose answers are short, and one of them on all tasks."""
    common = ["--matrix", str(matrix), "--out", str(tmp_path), "--limit", "1", "--quiet", "--only"]
    assert cli.main([*common, "*/gqa"]) == 0
    assert cli.main([*common, "qwen3-vl-8b/fastv-11.1%/*"]) == 0
    document = json.loads((tmp_path / "leaderboard.json").read_text())
    assert len(document["cells"]) == 2 * 32 + 3
    assert not document["failed"] and {cell["n_failed"] for cell in document["cells"]} == {0}
    assert all(cell["share"] < 0.6 for cell in document["cells"] if cell["label"] != "vanilla")  # of few tokens
