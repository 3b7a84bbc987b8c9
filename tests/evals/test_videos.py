"""Videos from files to a table: `run.py --matrix` on three tiny videos in the official layout, for three families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evals import cli
from evals.matrix.schema import load_matrix
from evals.model.lmms_model import HidropLlava
from evals.report.page_samples import PageSamples, page_samples
from evals.store.folders import read_document
from evals.tasks import TASKS, TaskSpec, evaluate, get_task, shown_videos
from hidrop.backbones import count_by
from hidrop.budget import solve
from hidrop.models import load
from tests import tiny_checkpoints
from tests.evals.tasks.layout import put
from tests.evals.tasks.official.tables import ROWS
from tests.evals.tasks.table import CASES

pytestmark = pytest.mark.usefixtures("short_answers")

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "llava_onevision")
FRAMES = 4
VIDEO = [name for name in TASKS if get_task(name).source.videos]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name in VIDEO:
        put(name, folder / get_task(name).source.folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: tiny_checkpoints.write(name, root / name) for name in (*FAMILIES, "smolvlm", "gemma3")}


def model_of(name: str, **more: Any) -> dict[str, Any]:
    """Small frames, because the limits of lmms-eval's classes are far above what these models can read."""
    limits = {"min_pixels": 3136, "max_pixels": 6272} if name.startswith("qwen") else {}
    return {"frames": FRAMES, **limits, **more}


def matrix(folder: Path, data: Path, protocol: str, model: dict[str, Any], tasks: list[str] = VIDEO) -> str:
    fields = "".join(f", {name}: {value}" for name, value in model.items())
    return f"""
name: tiny
protocol: {protocol}
dtype: float32
batch_size: 2
models:
  m: {{source: {folder}{fields}}}
methods:
  vanilla: {{}}
  fastv: {{layer: 1, budget: "25%"}}
  divprune: {{budget: "25%"}}
tasks: {{{", ".join(f"{name}: {{data: {data}}}" for name in tasks)}}}
profile: null
"""


def run(tmp_path: Path, text: str, *, code: int = 0) -> dict[str, Any]:
    file, out = tmp_path / "tiny.yaml", tmp_path / "out"
    file.write_text(text)
    assert cli.main(["--matrix", str(file), "--out", str(out), "--device", "cpu"]) == code
    return json.loads((out / "leaderboard.json").read_text()) if code == 0 else {}


def shown_on_a_page(out: Path) -> PageSamples:
    return page_samples(read_document(out), out, samples=2, room=10**6, answers_room=10**6)


@pytest.mark.parametrize("protocol", ("lmms-eval", "native"))
@pytest.mark.parametrize("name", FAMILIES)
def test_a_matrix_makes_a_table_of_two_video_tasks(
    name: str, protocol: str, tmp_path: Path, data: Path, checkpoints: dict[str, Path]
) -> None:
    document = run(tmp_path, matrix(checkpoints[name], data, protocol, model_of(name)))
    cells = {(cell["label"], cell["task"]): cell for cell in document["cells"]}
    assert set(cells) == {(label, task) for label in ("vanilla", "fastv", "divprune") for task in VIDEO}
    assert {cell["n"] for cell in cells.values()} == {4} and {cell["n_failed"] for cell in cells.values()} == {0}
    assert all(cells["vanilla", task]["share"] == 1 for task in VIDEO)
    assert all(cells["fastv", task]["share"] == pytest.approx(0.25, abs=0.06) for task in VIDEO)
    assert all(cell["film"]["frames"] == FRAMES for cell in cells.values())
    readme = (tmp_path / "out" / "leaderboard.md").read_text()
    assert f"Frames of a video: m: at most {FRAMES}" in readme.replace("**", "")
    shown = shown_on_a_page(tmp_path / "out")
    assert shown.notes == []
    span = 2 if name.startswith("qwen") else 1
    for sample in (sample for samples in shown.tasks.values() for sample in samples):
        [view] = sample["views"]
        assert [label.partition(",")[0] for _, label in view["pictures"]] == [
            f"frame {n}" for n in range(1, FRAMES + 1)
        ]
        for answer in sample["answers"].values():
            assert (answer["on"], answer["span"]) == ([[n // span] for n in range(FRAMES)], span)


def test_the_number_of_frames_is_part_of_a_cells_identity(
    tmp_path: Path, data: Path, checkpoints: dict[str, Path]
) -> None:
    ids = []
    for more in ({}, {"frames": 2}, {"fps": 1.0}):
        text = matrix(checkpoints["llava_onevision"], data, "native", model_of("llava_onevision", **more), VIDEO[:1])
        ids.append({cell["label"]: cell["id"] for cell in run(tmp_path, text)["cells"]})
    assert len({found["vanilla"] for found in ids}) == 3


@pytest.mark.parametrize("name", (*FAMILIES, "gemma3"))
def test_each_video_is_reduced_as_the_plan_for_its_tokens_says(
    name: str, data: Path, checkpoints: dict[str, Path]
) -> None:
    stated = model_of(name)
    loaded = load(checkpoints[name], **{key: value for key, value in stated.items() if key.endswith("pixels")})
    geometry = loaded.geometry.counted(loaded.geometry.visual_tokens)
    count_by(loaded.model, **geometry.counting)
    reducer = solve("fastv", {"layer": 1}, "25%", geometry).on(geometry)
    records: list[Any] = []
    frames = 2 if name == "gemma3" else FRAMES
    lm = HidropLlava.from_loaded(loaded, reducer, "native", 2, records.extend, frames=frames)
    found = evaluate(lm, TaskSpec("videomme", str(data), "native"))
    assert found.n_failed == 0 and len(records) == 4
    for record in records:
        plan = reducer.plan(geometry, record["visual_tokens"])
        assert (record["entering"] or list(reducer.plan(geometry).entering)) == list(plan.entering)
        assert plan.entering[-1] < plan.entering[0] == record["visual_tokens"]


def test_videos_of_a_family_without_them_are_refused_before_a_run(
    tmp_path: Path, data: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, matrix(checkpoints["smolvlm"], data, "native", {}), code=2)
    assert "SmolVLM: videos are not supported for this family" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"frames": 0}, "models.m.frames"),
        ({"frames": 1}, "frames: 1 is less than 2"),
        ({"fps": -1}, "models.m.fps"),
        ({"max_pixels": 100}, "max_pixels: 100 is less than the 784 pixels of one visual token"),
        ({"min_pixels": 900, "max_pixels": 800}, "min_pixels: 900 is above max_pixels (800)"),
    ],
)
def test_impossible_frames_and_pixels_are_one_line(
    model: dict[str, Any],
    words: str,
    tmp_path: Path,
    data: Path,
    checkpoints: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(tmp_path, matrix(checkpoints["qwen2_5_vl"], data, "native", model), code=2)
    assert words in capsys.readouterr().err


def test_a_broken_video_fails_its_questions_alone(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    own = tmp_path / get_task("videomme").source.folder
    put("videomme", own)
    (own / CASES["videomme"].films[0]).write_bytes(b"no video")
    lm = HidropLlava.from_loaded(load(checkpoints["llava_onevision"]), None, "native", 2, frames=2)
    found = evaluate(lm, TaskSpec("videomme", str(tmp_path), "native"))
    assert found.n_failed == 2
    assert set(lm.failures.values()) == {
        "VideoError: clip1.mp4: broken video: Invalid data found when processing input"
    }


def test_a_video_with_more_tokens_than_the_model_has_positions_is_one_line(
    tmp_path: Path, data: Path, checkpoints: dict[str, Path]
) -> None:
    loaded = load(checkpoints["qwen2_5_vl"], min_pixels=2_000_000, max_pixels=2_000_000)
    lm = HidropLlava.from_loaded(loaded, None, "native", 1, frames=8)
    with pytest.raises(RuntimeError, match="the prompt has .* tokens, but the model has only 4096 positions"):
        evaluate(lm, TaskSpec("videomme", str(data), "native"))


def test_the_bundled_matrix_of_videos_is_complete() -> None:
    found = load_matrix("video")
    assert set(found.tasks) == set(VIDEO)
    cells = found.cells()
    assert {cell.model for cell in cells if cell.entry == "visionzip"} == {"qwen2.5-vl-7b", "qwen3-vl-8b"}
    assert {cell.budget for cell in cells} == {None, "25%", "10%"}
    assert {cell.spec.frames for cell in cells} == {32}


def test_plans_and_analyses_of_videos_are_refused_in_words(
    tmp_path: Path, data: Path, checkpoints: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(matrix(checkpoints["qwen2_5_vl"], data, "native", model_of("qwen2_5_vl")))
    assert cli.main(["plan", str(file), "--image", "videomme"]) == 2
    assert "videomme: a task of videos. Name a task of images, or a size" in capsys.readouterr().err
    asked = [
        "--model",
        str(checkpoints["qwen2_5_vl"]),
        "--task",
        "videomme",
        "--data",
        str(data),
        "--protocol",
        "native",
    ]
    assert cli.main(["analyze", *asked, "--out", str(tmp_path / "a"), "--device", "cpu"]) == 2
    assert "videomme: a task of videos, which analyze does not probe" in capsys.readouterr().err


@pytest.mark.parametrize("name", ("mlvu_dev", "egoschema_subset"))
def test_a_video_task_of_lmms_eval_without_a_class_runs_too(
    name: str, tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    """Its functions look for videos below HF_HOME: the data folder takes that place. Another video is another cell."""
    row, own = ROWS[name], tmp_path / "data"
    row.put(own)
    text = matrix(checkpoints["llava_onevision"], own, "lmms-eval", model_of("llava_onevision"), [name])
    document = run(tmp_path, text)
    cells = {cell["label"]: cell for cell in document["cells"]}
    assert len(cells) == 3 and document["failed"] == []
    assert all(cell["n"] == len(row.documents) and cell["n_failed"] == 0 for cell in cells.values())
    assert cells["vanilla"]["film"]["frames"] == FRAMES and cells["vanilla"]["own_scale"]
    assert cells["fastv"]["share"] == pytest.approx(0.25, abs=0.02)
    shown = shown_on_a_page(tmp_path / "out")
    assert shown.notes == [] and all(sample["views"] for sample in shown.tasks[name])
    (own / row.films[0]).write_bytes((own / row.films[1]).read_bytes())
    shown_videos._digest.cache_clear()
    other = shown_on_a_page(tmp_path / "out")
    assert "its videos differ from those that the run read" in other.notes[0] and other.images == []
    again = run(tmp_path, text)
    assert {cell["id"] for cell in again["cells"]}.isdisjoint(cell["id"] for cell in cells.values())
    (own / row.films[0]).unlink()
    shown_videos._digest.cache_clear()
    lost = run(tmp_path, text)
    about = sum(cell["n_failed"] for cell in lost["cells"] if cell["label"] == "vanilla")
    assert lost["failed"] == [] and 0 < about < len(row.documents)
