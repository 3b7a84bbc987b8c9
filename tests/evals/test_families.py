"""Every family from a folder to a table: `run.py --matrix` on the embedded data, with vanilla and two methods."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from evals import cli
from evals.matrix.schema import load_matrix
from evals.run.batch_sizes import batch_sizes, largest_prompt
from evals.run.engine import load
from evals.tasks.protocol import protocol
from tests import tiny_checkpoints
from tests.hidrop.backbones.families import with_own

pytestmark = pytest.mark.usefixtures("short_answers")

LIMITED = with_own("limit_pixels")
SAMPLES = 3


def matrix(folder: Path, protocol_name: str, model: str) -> str:
    return f"""
name: tiny
protocol: {protocol_name}
dtype: float32
batch_size: 2
limit: {SAMPLES}
models:
  m: {{source: {folder}{model}}}
methods:
  vanilla: {{}}
  fastv: {{layer: 1, budget: "22.2%"}}
  pdrop: {{layers: [2, 3, 4], budget: "60%"}}
tasks:
  gqa: {{data: mini}}
profile: {{repeats: 1, warmup: 0, text_tokens: 8, new_tokens: 2}}
"""


def run(tmp_path: Path, text: str, *, code: int = 0) -> dict[str, Any]:
    file, out = tmp_path / "tiny.yaml", tmp_path / "out"
    tmp_path.mkdir(exist_ok=True)
    file.write_text(text)
    assert cli.main(["--matrix", str(file), "--out", str(out), "--device", "cpu"]) == code
    return json.loads((out / "leaderboard.json").read_text()) if code == 0 else {}


@pytest.mark.parametrize("name", tiny_checkpoints.FAMILIES)
def test_a_matrix_makes_a_table_of_every_family(name: str, tmp_path: Path) -> None:
    folder = tiny_checkpoints.write(name, tmp_path / name)
    limits = ", min_pixels: 12544, max_pixels: 25088" if name in LIMITED else ""
    document = run(tmp_path, matrix(folder, "native", limits))
    cells = {cell["label"]: cell for cell in document["cells"]}
    assert list(cells) == ["vanilla", "fastv", "pdrop"]
    assert {cell["n"] for cell in cells.values()} == {SAMPLES}
    assert {cell["n_failed"] for cell in cells.values()} == {0}
    assert cells["vanilla"]["share"] == 1
    assert cells["fastv"]["share"] == pytest.approx(0.222, abs=0.06)
    assert cells["pdrop"]["share"] == pytest.approx(0.6, abs=0.1)
    assert ("pixels" in cells["vanilla"]) == (name in LIMITED)
    assert {entry["label"] for entry in document["profiles"]} == {"vanilla", "fastv", "pdrop"}
    assert not document["failed"]
    cell = load_matrix(tmp_path / "tiny.yaml").cells()[0]
    loaded = load(cell, "cpu")
    most = largest_prompt(loaded, cell.task_spec, SAMPLES).visual
    count = protocol(cell.protocol).counting(loaded.backbone, loaded.image_processor, loaded.pixel_limits)
    random = Random(1)
    for _ in range(60):
        assert count(random.randint(60, 4000), random.randint(60, 4000))[0] <= 1.1 * most
    assert batch_sizes(loaded, [cell])["gqa"] >= 2


def test_llavas_protocol_is_refused_before_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_checkpoints.write("qwen2_5_vl", tmp_path / "qwen")
    run(tmp_path, matrix(folder, "llava", ""), code=2)
    assert "models.m.source: protocol: llava is LLaVA's own evaluation" in capsys.readouterr().err


def test_limits_of_pixels_of_another_family_are_refused_before_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_checkpoints.write("gemma3", tmp_path / "gemma")
    run(tmp_path, matrix(folder, "native", ", max_pixels: 9000"), code=2)
    assert "max_pixels: Gemma 3 has no limits of pixels" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_downsample_gives_the_processor_a_smaller_image_of_the_same_shape(name: str, tmp_path: Path) -> None:
    """Embedded images of 80 x 80 pixels become 12 x 12 tokens: a quarter is 6 x 6 of them, and the model runs whole."""
    side = 32 if name == "qwen3_vl" else 28
    folder = tiny_checkpoints.write(name, tmp_path / name)
    text = matrix(folder, "native", f", min_pixels: {(12 * side) ** 2}, max_pixels: {(12 * side) ** 2}")
    methods = 'methods:\n  vanilla: {}\n  downsample: {budget: "25%"}\n'
    text = text[: text.index("methods:")] + methods + text[text.index("tasks:") :]
    document = run(tmp_path, text.replace("min_pixels", "reference_tokens: 144, min_pixels"))
    timed = {entry["label"]: entry["entering"][0] for entry in document["profiles"]}
    assert timed == {"vanilla": 144, "downsample": 36}
    cells = {cell["label"]: cell for cell in document["cells"]}
    assert (cells["vanilla"]["share"], cells["downsample"]["share"]) == (1, 0.25)
    assert cells["downsample"]["average_tokens"] == 36
    assert cells["downsample"]["flops"] < cells["vanilla"]["flops"]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_downsample_takes_its_share_of_what_vanilla_sees_under_lmms_eval(name: str, tmp_path: Path) -> None:
    """lmms-eval's limits are others than the checkpoint's: its class for Qwen2.5-VL enlarges images to 256 tokens."""
    folder = tiny_checkpoints.write(name, tmp_path / name)
    text = matrix(folder, "lmms-eval", "")
    methods = 'methods:\n  vanilla: {}\n  downsample: {budget: "25%"}\n  uniform: {budget: "25%"}\n'
    text = text[: text.index("methods:")] + methods + text[text.index("tasks:") : text.index("profile:")]
    document = run(tmp_path, text + "profile: null\n")
    vanilla, small, uniform = document["cells"]
    assert small["average_tokens"] == small["share"] * vanilla["average_tokens"]
    assert small["share"] == pytest.approx(0.25, abs=0.1)
    assert 0 < small["flops"] < vanilla["flops"]
    assert small["text_tokens"] == uniform["text_tokens"] == vanilla["text_tokens"]


def test_compare_says_that_two_runs_saw_images_of_other_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_checkpoints.write("qwen2_5_vl", tmp_path / "qwen")
    for out, limits in (("a", ""), ("b", ", max_pixels: 6272")):
        text = matrix(folder, "native", limits)
        run(tmp_path / out, text[: text.index("  pdrop")] + "tasks: {gqa: {data: mini}}\nprofile: null\n")
    capsys.readouterr()
    assert cli.main(["compare", str(tmp_path / "a/out"), str(tmp_path / "b/out")]) == 0
    assert "pixels of m (None / {'max_pixels': 6272})" in capsys.readouterr().out


def test_tables_name_no_number_of_tokens_that_nobody_stated(tmp_path: Path) -> None:
    from evals.report.sections import boards

    folder = tiny_checkpoints.write("qwen2_5_vl", tmp_path / "qwen")
    text = matrix(folder, "native", "")
    text = text[: text.index("profile:")] + "profile: null\n"
    document: Any = run(tmp_path, text)
    (board,) = boards(document)
    assert board.title == "6 layers, images of any number of visual tokens"
    titles = [section.title for section in board.sections]
    assert titles == ["All visual tokens", "60.0 % on average, training-free", "22.2 % on average, training-free"]
    assert "1296" not in (tmp_path / "out" / "leaderboard.md").read_text()
    document = run(tmp_path, text.replace("m: {source:", "m: {reference_tokens: 20, source:"))
    (board,) = boards(document)
    assert board.title == "6 layers, 20 visual tokens"


@pytest.mark.parametrize(
    ("method", "line"),
    [
        ('{name: fastv, layer: 1, budget: "30%"}', "budget: 30% is a share of each image, and counts: fixed keeps one"),
        ("{name: pdrop}", "it keeps shares of each image, of which counts: fixed would make numbers"),
    ],
)
def test_shares_are_refused_with_fixed_counts(
    method: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_checkpoints.write("qwen2_5_vl", tmp_path / "qwen")
    text = matrix(folder, "native", ", reference_tokens: 20, counts: fixed")
    text = text[: text.index("  fastv:")] + f"  one: {method}\n" + text[text.index("tasks:") :]
    run(tmp_path, text, code=2)
    assert line in capsys.readouterr().err
