"""`graphs` and `compile` of a matrix: what is captured answers as eagerly, and the rest is said in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evals.matrix.capture import not_compiled, obstacle
from evals.model.lmms_model import HidropLlava
from evals.report.caption import caption
from evals.run.matrix_run import RunOptions, run_matrix
from evals.store.folders import samples_of
from hidrop.errors import UserError
from hidrop.geometry import PRESETS
from hidrop.runtime.cuda_graphs import Graphs
from tests.evals.run.test_batch_sizes import state
from tests.evals.world import World
from tests.hidrop.runtime.test_cuda_graphs import FxRecorder

LLAVA = PRESETS["llava-1.5-7b"]
MATRIX = """
name: captured
protocol: lmms-eval
dtype: float32
batch_size: 4
limit: 8
graphs: {graphs}
models: {{m: {{source: "mini:vanilla"}}}}
methods:
  vanilla: {{}}
  fastv: {{layer: 1, keep: 20}}
  adaptive: {{name: sparsevlm, version: "1.0", layers: [2], scale: 60}}
tasks: {{pope: {{data: mini}}}}
profile: null
"""


def answered(folder: Path, graphs: str, device: str = "cpu") -> tuple[Any, dict[str, list[str]]]:
    """The document of MATRIX, and each row's answers."""
    file = folder / f"{graphs}.yaml"
    file.write_text(MATRIX.format(graphs=graphs))
    finished = run_matrix(RunOptions(file, folder / graphs, device=device, workers=0, quiet=True))
    assert finished is not None and finished.document["failed"] == []
    cells = finished.document["cells"]
    return finished.document, {c["label"]: [s["answer"] for s in samples_of(folder / graphs, c) or ()] for c in cells}


def test_cells_of_recorded_graphs_answer_as_eager_ones_and_the_caption_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager, wanted = answered(tmp_path, "false")
    recorder = FxRecorder()
    monkeypatch.setattr("evals.matrix.capture.obstacle", lambda *parts: None)
    monkeypatch.setattr("evals.model.graphs.graphs_on", lambda device: Graphs(recorder, bucket=32, limit=2))
    document, found = answered(tmp_path, "true")
    assert found == wanted and all(len(answers) == 8 for answers in found.values())
    # A prefill and a step of each captured method, recorded on its first batch and replayed on both.
    assert recorder.recorded == 2 * 2 and recorder.replayed >= 2 * 2 * 2
    assert dict(caption(document))["CUDA graphs"] == "captured: m/vanilla, m/fastv; not captured: m/adaptive"
    assert "CUDA graphs" not in dict(caption(eager))
    ids = [{cell["label"]: cell["id"] for cell in one["cells"]} for one in (eager, document)]
    assert [ids[0][label] == ids[1][label] for label in ("vanilla", "fastv", "adaptive")] == [False, False, True]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_captured_cells_answer_as_eager_ones_on_cuda(tmp_path: Path) -> None:
    wanted, found = (answered(tmp_path, graphs, "cuda") for graphs in ("false", "auto"))
    assert found[1] == wanted[1]
    assert dict(caption(found[0]))["CUDA graphs"] == "captured: m/vanilla, m/fastv; not captured: m/adaptive"


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((LLAVA, "cpu", "sdpa"), "need a CUDA device, not cpu"),
        ((LLAVA, "cuda", "eager"), "need attention sdpa, not eager"),
        ((LLAVA, "cuda:1", "sdpa", "4bit"), "quantization 4bit were not tried"),
        ((LLAVA, "cuda", "sdpa", None, "auto"), "device_map auto spreads over devices"),
        ((PRESETS["qwen2.5-vl-7b"], "cuda", "sdpa"), "nearly every batch would be another graph"),
    ],
)
def test_why_nothing_is_captured(parts: Any, why: str) -> None:
    assert why in str(obstacle(*parts))
    assert obstacle(LLAVA, "cuda:1", "sdpa") is None


def test_true_is_refused_before_the_run_where_nothing_can_be_captured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"graphs: true for m: CUDA graphs need a CUDA device, not cpu. Use auto"):
        answered(tmp_path, "true")


def test_auto_captures_nothing_on_a_cpu_and_keeps_the_cells(go: Any, tmp_path: Path) -> None:
    go(World())
    state(tmp_path, "2\ngraphs: auto")
    world = World()
    document = go(world)
    assert world.asked == [] and dict(caption(document))["CUDA graphs"].startswith("none captured: plain/vanilla, ")


def test_compiled_layers_make_other_cells_and_are_told(go: Any, tmp_path: Path) -> None:
    go(World())
    file = tmp_path / "tiny.yaml"
    file.write_text(file.read_text().replace("{source: plain}", "{source: plain, compile: true}"))
    world = World()
    document = go(world)
    assert {key.split("/")[0] for key, _ in world.asked} == {"plain"}
    assert world.timed == ["vanilla", "fastv"], "timings are others, too"
    assert dict(caption(document))["Compiled"] == "norms and MLPs of plain, by torch.compile"


def test_a_model_is_compiled_when_its_cells_ask_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from evals.matrix.schema import load_matrix
    from evals.run.engine import load

    seen: list[Any] = []
    monkeypatch.setattr("hidrop.runtime.compiled_layers.fuse", seen.append)
    file = tmp_path / "one.yaml"
    file.write_text(MATRIX.format(graphs="false"))
    cell = load_matrix(file).cells()[0]
    assert load(cell, "cpu").graphs is None and seen == []
    loaded = load(replace(cell, compiled=True), "cpu")
    assert seen == [loaded.backbone.decoder]


def test_why_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "quantization 4bit" in str(not_compiled("4bit", "cpu"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "Install g++" in str(not_compiled(None, "cpu"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "Install triton" in str(not_compiled(None, "cuda"))


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("graphs=yes", "graphs is one of auto, true, false, not 'yes'"),
        ("compile=auto", "compile is one of true, false, not 'auto'"),
        ("graphs=true", "graphs=true: CUDA graphs need a CUDA device, not cpu. Use graphs=auto, or leave it out"),
    ],
)
def test_arguments_of_lmms_eval_are_those_of_a_matrix(argument: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        HidropLlava.create_from_arg_string(f"pretrained=mini:vanilla,{argument}")


def test_lmms_evals_model_is_compiled_or_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("hidrop.runtime.compiled_layers.fuse", seen.append)
    lm = HidropLlava.create_from_arg_string("pretrained=mini:vanilla,graphs=auto,compile=true")
    assert lm._graphs is None and seen == [lm.loaded.backbone.decoder]
