"""Plans for images of stated sizes, and for the images of a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evals.cli import main
from evals.model.arguments import method
from evals.tasks.protocol import protocol
from hidrop.errors import UserError
from hidrop.models import load
from tests.tiny_checkpoints import write

MATRIX = """
protocol: native
models:
  qwen: {{source: {qwen}}}
  limited: {{source: {qwen}, min_pixels: 37632, max_pixels: 37632}}
  stated: {{source: {qwen}, reference_tokens: 24, counts: fixed}}
  mini: {{source: "mini:vanilla"}}
methods:
  vanilla: {{}}
  divprune: {{budget: "25%"}}
  keeping: {{name: divprune, keep: 6}}
  downsample: {{budget: "25%"}}
tasks: {{gqa: {{data: mini}}}}
runs:
  - {{models: [qwen, mini], methods: [vanilla, divprune]}}
  - {{models: [stated], methods: [keeping]}}
  - {{models: [limited], methods: [vanilla, downsample]}}
profile: null
"""


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image-plan")
    file = folder / "m.yaml"
    file.write_text(MATRIX.format(qwen=write("qwen2_5_vl", folder / "qwen")))
    return file


def planned(matrix: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    assert main(["plan", str(matrix), "--json", *more]) == 0
    return json.loads(capsys.readouterr().out)["rows"]


def test_an_image_of_a_stated_size_has_its_own_tokens(matrix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """168 x 112 pixels are 6 x 4 tokens of 28 pixels; a LLaVA's image always has 100."""
    rows = planned(matrix, capsys, "--image", "168x112,56x56")
    found = {(row["model"], row["label"], row["image"]): row for row in rows}
    assert found["qwen", "vanilla", "168x112"]["entering"] == [24] * 6
    assert found["qwen", "divprune", "168x112"]["entering"] == [6] * 6
    assert found["qwen", "divprune", "56x56"]["entering"] == [1] * 6
    assert found["mini", "divprune", "56x56"]["entering"] == [25] * 12
    assert found["qwen", "vanilla", "56x56"]["visual_tokens"] == 4


def test_a_models_limits_of_pixels_and_what_downsample_makes_of_a_grid_count(
    matrix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """37632 pixels are 48 tokens of 28 x 28 pixels, at least: 9 rows of 6 for 56 x 84. A quarter is 4 rows of 3."""
    rows = planned(matrix, capsys, "--image", "56x84", "--only", "limited/*")
    assert [(row["visual_tokens"], row["entering"][0]) for row in rows] == [(54, 54), (54, 12)]


def test_the_tokens_of_a_plan_are_those_that_the_protocol_makes(tmp_path: Path) -> None:
    """lmms-eval's classes resize images before the processor, and state limits of their own."""
    for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "internvl", "smolvlm", "gemma3"):
        loaded = load(write(name, tmp_path / name))
        for asked in ("native", "lmms-eval"):
            count = protocol(asked).counting(loaded.backbone, loaded.image_processor, loaded.pixel_limits)
            for width, height in ((56, 84), (200, 60), (300, 200), (30, 400)):
                made = protocol(asked).prepare(loaded, "What?", [Image.new("RGB", (width, height))])
                tokens, grid = count(height, width)
                assert tokens == made.visual_tokens, (name, asked, width, height)
                assert grid is None or grid[0] * grid[1] == tokens


def test_an_image_that_cannot_be_asked_is_refused_in_words(matrix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(matrix), "--image", "5000x10", "--only", "qwen/*"]) == 2
    assert "--image 5000x10: models.qwen: " in capsys.readouterr().err


def test_fixed_counts_stay_whatever_the_image(matrix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """keep: 6 is 6 of 24 tokens, 6 of 48 tokens, and all 4 of 4."""
    rows = planned(matrix, capsys, "--image", "168x112,336x112,56x56", "--only", "stated/*")
    assert [row["entering"][0] for row in rows] == [6, 6, 4]
    assert [round(100 * row["share"], 1) for row in rows] == [25.0, 12.5, 100.0]


def test_a_tasks_own_images_give_means(matrix: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The embedded images have 80 x 80 pixels: 3 x 3 tokens."""
    (row,) = planned(matrix, capsys, "--image", "gqa", "--limit", "5", "--only", "qwen/vanilla/*")
    assert (row["image"], row["images"], row["visual_tokens"]) == ("gqa", 5, 9)


@pytest.mark.parametrize("text", ["1024", "0x5", "pope", "10x20,"])
def test_what_is_neither_a_size_nor_a_task_is_refused(
    matrix: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(matrix), "--image", text]) == 2
    assert (
        "neither WIDTHxHEIGHT in pixels, such as 1024x768, nor a task of this matrix (gqa)" in capsys.readouterr().err
    )


def test_a_number_of_tokens_needs_the_image_that_it_is_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write("qwen2_5_vl", tmp_path / "qwen")
    text = f"""
protocol: lmms-eval
models: {{qwen: {{source: {folder}}}, mini: {{source: "mini:vanilla", reference_tokens: 64}}}}
methods: {{fastv: {{budget: 64}}, divprune: {{keep: 8}}, pdrop: {{}}}}
tasks: {{gqa: {{data: mini}}}}
"""
    (tmp_path / "m.yaml").write_text(text)
    assert main(["plan", str(tmp_path / "m.yaml")]) == 2
    told = capsys.readouterr().err
    assert "fastv: budget: a number of tokens has no meaning where each image has its own; give a share" in told
    assert "divprune: keep: a number of tokens has no meaning" in told
    assert "models.mini.reference_tokens: 64, but every image of this model has 100 tokens; leave it out" in told


def test_counts_that_a_checkpoint_was_trained_with_need_their_image_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its config.json says keep: 6, of no image."""
    folder = write("qwen2_5_vl", tmp_path / "qwen")
    config = json.loads((folder / "config.json").read_text())
    config["hidrop"] = {"name": "fastv", "layer": 1, "keep": 6}
    (folder / "config.json").write_text(json.dumps(config))
    text = f"""
protocol: native
models: {{m: {{source: {folder}}}}}
methods: {{own: {{name: checkpoint}}}}
tasks: {{gqa: {{data: mini}}}}
"""
    (tmp_path / "m.yaml").write_text(text)
    assert main(["plan", str(tmp_path / "m.yaml")]) == 2
    assert "methods.own on m: fastv: keep: a number of tokens has no meaning" in capsys.readouterr().err
    loaded = load(folder)
    with pytest.raises(UserError, match="model_args: fastv: keep: a number of tokens has no meaning"):
        method(loaded, None, None, {})
    (tmp_path / "m.yaml").write_text(text.replace("qwen}", "qwen, reference_tokens: 24}"))
    (row,) = planned(tmp_path / "m.yaml", capsys)
    assert (row["trained"], row["entering"]) == (True, [24, 6, 6, 6, 6, 6])
    assert method(load(folder, reference_tokens=24), None, None, {}) == loaded.reducer
