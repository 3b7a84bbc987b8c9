"""`analyze` on families whose images have their own numbers of tokens: shares, and maps of the images' own shape."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evals import cli
from evals.analysis import figures
from evals.analysis.document import ANALYSIS
from evals.analysis.task_curves import heat
from evals.store.records import checked
from tests import tiny_checkpoints

pytestmark = pytest.mark.usefixtures("short_answers")

LAYERS = ("--inject", "2", "--exit", "6", "--filters", "3,4")  # of 6
QUICK = ("--samples", "3", "--batch", "2", "--held-out", "2", "--windows", "1,2", "--shares", "1", "--data", "mini")


def analyze(*arguments: Any) -> int:
    return cli.main(["analyze", *map(str, arguments)])


def test_a_backbone_without_a_published_schedule_gets_one_that_a_matrix_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tiny_checkpoints.write("qwen2_5_vl", tmp_path / "qwen"), tmp_path / "out"
    asked = ("--model", folder, *QUICK, *LAYERS, "--no-inject-sweep", "--budget", "35%", "--search", 1)
    assert analyze(*asked, "--out", out, "--explain") == 0
    printed = capsys.readouterr().out
    found = ANALYSIS.read(out / "analysis.json")
    assert found["suggestion"]["share"] == "35%" and found["failed"] == 0
    assert "of an image of 1296 tokens. Rule: those of the paper" in printed
    assert [row[0] for row in found["search"]["rows"]][:2] == ["vanilla", "suggested"]
    pasted = found["yaml"]
    assert pasted == '  hidrop-suggested: {name: hidrop, inject: 2, filters: [3, 4], budget: "35%", exit: 6}'
    matrix = tmp_path / "matrix.yaml"
    matrix.write_text(
        f"protocol: lmms-eval\ndtype: float32\nlimit: 3\nmodels: {{m: {{source: '{folder}'}}}}\n"
        f"methods:\n  vanilla: {{}}\n{pasted}\ntasks: {{gqa: {{data: mini}}}}\n"
    )
    assert cli.main(["--matrix", str(matrix), "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    document = json.loads((tmp_path / "run" / "leaderboard.json").read_text())
    (cell,) = [cell for cell in document["cells"] if cell["label"] == "hidrop-suggested"]
    assert cell["n_failed"] == 0 and cell["share"] == pytest.approx(0.35, abs=0.04)


@pytest.mark.parametrize("family", [name for name in tiny_checkpoints.FAMILIES if name != "idefics3"])
def test_every_family_is_analyzed(family: str, tmp_path: Path) -> None:
    folder, out = tiny_checkpoints.write(family, tmp_path / family), tmp_path / "out"
    code = analyze("--model", folder, *QUICK, *LAYERS, "--budget", "40%", "--out", out, "--no-inject-sweep")
    found = json.loads((out / "analysis.json").read_text())
    assert code == 0 and found["probed"] == 3 and found["failed"] == 0 and found["heat_samples"] >= 1
    tokens = len(found["heat"][0])
    assert sum(f * r * (c + o) for image in found["heat_panels"] for f, r, c, o in image) == tokens
    records = [json.loads(line) for path in (out / "samples").glob("*.jsonl") for line in path.open()]
    answers = [record for record in records if record.get("kind") == "answer"]
    assert len(answers) == 3 and all(record["panels"] for record in answers)
    shown = figures.maps_of(found)
    assert (
        shown and len({int(token) for one in shown for token in one.flat}) == sum(one.size for one in shown) <= tokens
    )


def test_a_number_of_tokens_is_no_budget_where_images_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_checkpoints.write("qwen3_vl", tmp_path / "qwen")
    assert analyze("--model", folder, *QUICK, "--budget", "64", "--out", tmp_path / "out") == 2
    assert "--budget: each image of this model has its own number of tokens; give a share" in capsys.readouterr().err


# ---- maps ------------------------------------------------------------------------------------------------------------


def record(top: list[list[int]], panels: list[Any]) -> Any:
    return {"probe": {"top": top}, "panels": panels}


def test_a_map_is_of_the_samples_whose_images_have_the_most_frequent_shape() -> None:
    wide, high = [[[1, 2, 3, 0]]], [[[1, 3, 2, 0]]]
    records = [record([[0], [5]], wide), record([[1], [1]], high), record([[0], [4]], wide), {"error": "broken"}]
    found = heat(records, layers=2)
    assert (found.panels, found.samples) == ((((1, 2, 3, 0),),), 2)
    assert found.shares.tolist() == [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0.5, 0.5]]
    assert np.isnan(heat([], 2).shares).all()


def document(panels: list[Any] | None, tokens: int, visual: int) -> Any:
    made = {"heat": [[n / tokens for n in range(tokens)]] * 2, "visual_tokens": visual, "layers": 2, "probed": 9}
    made |= {"suggestion": {"filters": {"layers": []}}, "curves": {}}
    return made if panels is None else {**made, "heat_panels": panels, "heat_samples": 4}


def test_maps_have_the_shape_of_the_image_and_leave_other_tokens_out() -> None:
    """A class token, 2 x 3 places; then rows of 2 places and a line end; then two frames of 1 x 2."""
    panels = [[[1, 1, 0, 1], [1, 2, 3, 0]], [[1, 2, 2, 1]], [[2, 1, 2, 0]]]
    maps = figures.maps_of(document(panels, 17, 99))
    assert [one.tolist() for one in maps] == [
        [[1, 2, 3], [4, 5, 6]], [[7, 8], [10, 11]], [[13, 14]], [[15, 16]]
    ]  # fmt: skip
    drawn = figures.attention(document(panels, 17, 99))
    images = [axes.images[0].get_array() for axes in drawn.axes[1:]]
    assert [image.shape for image in images] == [(2, 3), (2, 2), (1, 2), (1, 2)] * 2
    assert images[1].tolist() == pytest.approx(np.array([[7, 8], [10, 11]]) / 17)
    assert "the 4 of 9 samples" in drawn.axes[0].get_title()


def test_an_older_analysis_has_one_square_or_no_map() -> None:
    assert [one.shape for one in figures.maps_of(document(None, 16, 16))] == [(4, 4)]
    assert figures.maps_of(document(None, 12, 12)) == []
    assert len(figures.attention(document(None, 12, 12)).axes) == 1


def test_an_image_of_many_tiles_is_mapped_in_fewer_layers() -> None:
    maps = figures.attention(document([[[1, 2, 2, 0]]] * 13, 52, 99)).axes[1:]
    assert len(maps) == 13
    assert len(figures.attention(document([[[1, 2, 2, 0]]] * 30, 120, 99)).axes[1:]) == figures.MOST_PANELS


@pytest.mark.parametrize(
    ("panels", "message"),
    [([[[1, 2, 2, 0]]], "of 4 tokens, and the sample has 6"), ([[[1, 2, 3]]], "a grid is four numbers"),
     ([[[1, -2, -3, 0]]], "a grid is four numbers of 0 or more")],
)  # fmt: skip
def test_a_record_with_grids_of_other_tokens_is_no_record(panels: Any, message: str) -> None:
    one = SimpleNamespace(kind="answer", doc_id=1, answer="a", batch=0, prompt_tokens=9, visual_tokens=6)
    line = {**vars(one), "milliseconds": 1.0, "error": None}
    assert checked({**line, "panels": [[[1, 2, 2, 1]]]})
    with pytest.raises(ValueError, match=message):
        checked({**line, "panels": panels})
