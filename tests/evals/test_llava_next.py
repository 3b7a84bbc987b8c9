"""LLaVA-NeXT from a folder to a table: prompts, batches, timings and a matrix, with images of any shape."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals import cli
from evals.bench import inference as bench
from evals.profiling import Point, profile
from evals.profiling.ceilings import Ceilings
from hidrop.backbones import geometry_of
from hidrop.methods import build
from hidrop.models import load
from tests.conftest import PINPOINTS, make_llava_next

pytestmark = pytest.mark.usefixtures("short_answers")

SIZES = [(40, 40), (90, 30), (31, 100), (64, 64), (20, 70)]  # width, height


@pytest.fixture(scope="module")
def folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in transformers' layout: 16 tokens a tile, up to five tiles."""
    from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

    model = make_llava_next(layers=4, seed=5)
    image_processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS
    )
    path = tmp_path_factory.mktemp("next")
    model.save_pretrained(path)
    LlavaNextProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(path)
    return path


def picture(doc: dict[str, Any]) -> list[Any]:
    from PIL import Image

    return [Image.new("RGB", size, (2 * size[0], size[1], 9)) for size in doc["sizes"]]


def requests(docs: list[dict[str, Any]]) -> list[Any]:
    settings = {"max_new_tokens": 5, "do_sample": False}
    return [
        SimpleNamespace(args=("What is it?", settings, picture, i, "toy", "test"), metadata={})
        for i in range(len(docs))
    ]


def ask(loaded: Any, docs: list[dict[str, Any]], **options: Any) -> tuple[list[str], list[dict[str, Any]]]:
    from evals.model.lmms_model import HidropLlava

    records: list[dict[str, Any]] = []
    lm = HidropLlava.from_loaded(loaded, record=records.extend, **options)
    lm.task_dict["toy"] = {"test": docs}
    answers = [result.text for result in lm.generate_until(requests(docs))]
    return answers, sorted(records, key=lambda record: record["doc_id"])


DOCS = [{"sizes": [size]} for size in SIZES] + [{"sizes": SIZES[:2]}, {"sizes": []}]


@pytest.mark.parametrize("method", ["vanilla", "hidrop"])
def test_a_batch_of_shapes_answers_as_one_by_one_and_counts_what_is_there(folder: Path, method: str) -> None:
    loaded = load(folder)
    fields = dict(inject=2, filters=[2], keep=[40], exit=4) if method == "hidrop" else {}
    single, alone = ask(loaded, DOCS, reducer=build(method, fields))
    together, records = ask(loaded, DOCS, reducer=build(method, fields), batch_size=4)
    assert together == single
    assert len(set(single)) > 2
    counts = [sum(loaded.image_tokens(height, width) for width, height in doc["sizes"]) for doc in DOCS]
    assert [record["visual_tokens"] for record in records] == counts
    assert len(set(counts)) > 4
    assert loaded.geometry.visual_tokens == 80
    wanted = [[0, n, n * 40 // 80, 0] if method == "hidrop" else [n] * 4 for n in counts]
    assert [record["entering"] for record in records] == wanted
    assert [record["entering"] for record in alone] == wanted


def test_the_prompt_is_that_of_transformers_own_processor(folder: Path) -> None:
    loaded = load(folder)
    answers, records = ask(loaded, DOCS[:5], protocol="lmms-eval")
    for doc, answer, record in zip(DOCS, answers, records, strict=False):
        inputs = loaded.processor(
            text="USER: <image>\nWhat is it? ASSISTANT:", images=picture(doc), return_tensors="pt"
        )
        out = loaded.model.generate(**inputs, max_new_tokens=5, do_sample=False)
        length = inputs["input_ids"].shape[1]
        assert record["prompt_tokens"] == length
        assert loaded.tokenizer.decode(out[0, length:], skip_special_tokens=True).strip() == answer


def test_timings_have_the_plan_of_the_largest_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.bench.inference.measure_ceilings", lambda *_: Ceilings(1e9, 1e9))
    loaded = load(folder)
    reducer = build("hidrop", dict(inject=2, filters=[2], keep=[40], exit=4))
    point = Point(repeats=1, warmup=0, new_tokens=1, text_tokens=8, batch=2)
    (one,) = profile(loaded, {"hidrop": reducer}, [point])["hidrop"].measurements
    count = 16 + 8 * 9  # four tiles, each line with its end
    assert one.entering == (0, count, count * 40 // 80, 0)
    asked = {label: bench.Asked(method) for label, method in (("vanilla", build("vanilla")), ("hidrop", reducer))}
    _, row, *_ = bench.bench_point(loaded, asked, point).rows
    assert row["kv_bytes"] == row["kv_bytes_planned"]
    assert row["ideal_speed_up"]["layerwise"] is not None


def test_a_matrix_runs_on_it(folder: Path, tmp_path: Path) -> None:
    matrix = tmp_path / "next.yaml"
    matrix.write_text(f"""
name: next
protocol: llava
dtype: float32
batch_size: 4
models:
  next: {{source: "{folder}"}}
methods:
  vanilla: {{}}
  fastv: {{layer: 1, budget: 50%}}
tasks:
  gqa: {{data: mini}}
runs:
  - {{models: [next], methods: [vanilla, fastv]}}
limit: 4
""")
    assert cli.main(["--matrix", str(matrix), "--out", str(tmp_path / "out")]) == 0
    document = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    vanilla, fastv = document["cells"]
    assert vanilla["share"] == pytest.approx(1)
    assert vanilla["average_tokens"] != vanilla["image_tokens"] == 80
    assert fastv["share"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("method", ["visionzip: {budget: 50%}", "downsample: {budget: 50%}"])
def test_methods_in_the_tower_are_refused_before_anything_runs(
    folder: Path, method: str, tmp_path: Path, capsys: Any
) -> None:
    matrix = tmp_path / "next.yaml"
    matrix.write_text(f"""
name: next
protocol: llava
dtype: float32
models:
  next: {{source: "{folder}"}}
methods:
  {method}
tasks:
  gqa: {{data: mini}}
runs:
  - {{models: [next], methods: [{method.split(":")[0]}]}}
""")
    assert cli.main(["validate", str(matrix)]) == 2
    assert "images in tiles (anyres, as in LLaVA-NeXT) are not supported" in capsys.readouterr().out


def test_the_preset_is_the_published_one() -> None:
    from transformers import LlavaNextConfig

    from hidrop.geometry import PRESETS

    config = LlavaNextConfig(image_grid_pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]])
    found, preset = geometry_of(config), PRESETS["llava-next-7b"]
    assert (found.visual_tokens, found.dynamic) == (preset.visual_tokens, preset.dynamic) == (2880, True)
