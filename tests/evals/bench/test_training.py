"""Training steps compared with transformers' own layers: the batch, the tensors that autograd keeps, and the output."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evals.bench import training as bench_train
from evals.bench.document import TRAINING
from evals.cli import bench as bench_command
from evals.cli import main
from hidrop.backbones import geometry_of
from hidrop.methods import build
from hidrop.runtime import reduce

METHODS = {
    "vanilla": build("vanilla"),
    "hidrop": build("hidrop", {"inject": 2, "filters": [2, 4], "keep": [5, 2], "exit": 6}),
}


@pytest.fixture
def loaded(tiny_llava: Any) -> Any:
    model = tiny_llava(kv_heads=2)
    return SimpleNamespace(model=model, geometry=geometry_of(model.config))


def test_a_batch_has_its_texts_around_an_image_and_answers_at_their_ends(loaded: Any) -> None:
    batch = bench_train.batch_of(loaded.model, (8, 20), 16)
    image = loaded.model.config.image_token_id
    assert batch["input_ids"].shape == (2, 36) and batch["pixel_values"].shape[0] == 2
    assert batch["attention_mask"].sum(1).tolist() == [24, 36]
    assert (batch["input_ids"] == image).sum(1).tolist() == [16, 16]
    for row, (count, answer) in enumerate([(24, 3), (36, 7)]):
        labelled = (batch["labels"][row] != bench_train.IGNORED).nonzero().flatten().tolist()
        assert labelled == list(range(count - answer, count))
    assert "attention_mask" not in bench_train.batch_of(loaded.model, (8, 8), 16)


def test_what_autograd_keeps_is_counted_once_and_without_the_weights(tiny_llava: Any) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(8, 8))

        def forward(self, x: torch.Tensor, use_cache: bool = False) -> Any:
            h = x @ self.weight  # keeps x and the weight
            h = h.exp()  # keeps its result
            return SimpleNamespace(loss=(h * h).sum())  # keeps h twice

    x = torch.randn(4, 8)
    assert bench_train.saved_bytes(Model(), {"x": x}) == 4 * 8 * 4


def test_counting_what_autograd_keeps_frees_it_again(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Hooks(torch.autograd.graph.saved_tensors_hooks):
        def __init__(self, pack: Any, unpack: Any) -> None:
            def watched(tensor: torch.Tensor) -> torch.Tensor:
                packed = pack(tensor)
                made.append(weakref.ref(packed))
                return packed

            super().__init__(watched, unpack)

    monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", Hooks)
    assert bench_train.saved_bytes(loaded.model, bench_train.batch_of(loaded.model, (12,), 16)) > 0
    gc.collect()
    assert len(made) > 100 and not any(reference() is not None for reference in made)


def test_steps_are_measured_with_and_without_checkpointing(loaded: Any) -> None:
    found = bench_train.measure(loaded, METHODS, (12, 12), repeats=2, warmup=1)
    steps = {one.label: one for one in found.measured}
    assert list(steps) == ["vanilla", "hidrop", "vanilla (checkpointing)", "hidrop (checkpointing)"]
    vanilla, hidrop = steps["vanilla"], steps["hidrop"]
    assert vanilla.speed_up == vanilla.layerwise == vanilla.of_layerwise == 1
    assert hidrop.layerwise and hidrop.entering == (0, 16, 5, 5, 2, 0)
    assert steps["hidrop (checkpointing)"].layerwise is None
    assert hidrop.activation_bytes < vanilla.activation_bytes
    for name in ("vanilla", "hidrop"):
        assert steps[f"{name} (checkpointing)"].activation_bytes < steps[name].activation_bytes
    assert all(p.grad is None for p in loaded.model.parameters())
    shown = bench_train.table(found)
    assert "hidrop (checkpointing)" in shown and "samples/s" in shown and "memory" not in shown
    assert not bench_train.bars(found, cuda=True)
    (bar,) = bench_train.bars(replace(found, text=(12,) * 16), cuda=True)
    assert bar.value == hidrop.speed_up and bar.least == 1.7


def test_a_step_without_room_is_named_and_the_others_are_measured(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = bench_train.step, list[int]()

    def step(model: Any, inputs: Any) -> None:
        asked.append(1)
        if len(asked) == 1:  # the first step is vanilla's without checkpointing
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(model, inputs)

    monkeypatch.setattr(bench_train, "step", step)
    found = bench_train.measure(loaded, METHODS, (12,), repeats=2, warmup=1)
    assert found.out_of_memory == ["vanilla"]
    steps = {one.label: one for one in found.measured}
    assert list(steps) == ["hidrop", "vanilla (checkpointing)", "hidrop (checkpointing)"]
    assert steps["hidrop"].speed_up is None and steps["hidrop"].of_layerwise is None
    assert steps["hidrop (checkpointing)"].speed_up
    assert "vanilla: out of memory" in bench_train.table(found)
    (bar,) = bench_train.bars(replace(found, text=(12,) * 16), cuda=True)
    assert bar.value == steps["hidrop (checkpointing)"].speed_up and "checkpointing" in bar.what


def test_activations_shrink_as_the_tokens_do(loaded: Any) -> None:
    """Of a decoder whose layers keep so much for each token: HiDrop's part follows from its plan."""
    inputs = bench_train.batch_of(loaded.model, (12,), 16)
    loaded.model.train().model.vision_tower.requires_grad_(False)
    found = {}
    for name, reducer in METHODS.items():
        with reduce(loaded.model, reducer):
            found[name] = bench_train.saved_bytes(loaded.model, inputs)
    tokens = {name: sum(n + 12 for n in r.plan(loaded.geometry).entering) for name, r in METHODS.items()}
    assert found["hidrop"] / found["vanilla"] == pytest.approx(tokens["hidrop"] / tokens["vanilla"], abs=0.1)


def test_the_command_writes_what_it_measured(
    loaded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_command, "model_of", lambda *args: loaded)
    monkeypatch.setattr(bench_command, "sized", lambda name, **_: ("tiny", loaded.geometry))
    monkeypatch.setattr("evals.bench.inference.methods", lambda *args: METHODS)
    assert main(["bench-train", "--batch", "1,2", "--repeats", "1", "--out", str(tmp_path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    (path,) = tmp_path.glob("*.json")
    assert path.name.startswith("train-tiny-float32") and TRAINING.read(path) == document
    assert [row["text"] for row in document["rows"]] == [[60]] * 6 + [[60, 60]] * 6
    assert document["kind"] == "training" and document["out_of_memory"] == []


def test_a_file_of_the_first_schema_is_read_with_the_text_of_its_only_batch(tmp_path: Path) -> None:
    (path,) = Path("results/bench").glob("train-*-amd-*.json")
    today = json.loads(path.read_text())
    early = {**today, "schema": 1, "text": [60], "rows": [{**row} for row in today["rows"]]}
    del early["out_of_memory"]
    for row in early["rows"]:
        assert row.pop("text") == [60]
    (tmp_path / "early.json").write_text(json.dumps(early))
    assert TRAINING.read(tmp_path / "early.json") == {**today, "schema": 1}


def test_text_lengths_come_from_the_option_or_a_file_of_conversations(tmp_path: Path) -> None:
    assert bench_command.lengths_of("60", 3) == (60, 60, 60)
    assert bench_command.lengths_of("60,200", 1) == (60, 200)
    answer = {"from": "gpt", "value": "yes"}
    said = [{"conversations": [{"from": "human", "value": "w " * n}, answer]} for n in range(9, 109)]
    path = tmp_path / "c.json"
    path.write_text(json.dumps(said))
    found = bench_command.lengths_of("60", 4, path)
    # 10 to 109 words: their quantiles at an eighth, three eighths and so on.
    assert found == tuple(int(1.3 * (10 + 99 * place / 8)) for place in (1, 3, 5, 7))
    assert main(["bench-train", "--text", "3"]) == 2
