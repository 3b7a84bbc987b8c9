"""Whole trainings of a tiny LLaVA: interrupted, in two processes, with every way to train and to shard a batch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hidrop.errors import UserError
from hidrop.methods import build_entry
from hidrop.models import load
from hidrop.recipes import bundled, load_recipe, train
from hidrop.training import run as llava
from tests.hidrop.training.conftest import METHOD, RECORDS, tiny_parts

ROOT = Path(__file__).parents[3]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29517"]
PARTS = ("vision_tower", "multi_modal_projector", "language_model", "lm_head")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder).model.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def changed(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    """The parts of the model that differ."""
    names = {name for name in one if not torch.equal(one[name], other[name])}
    return {
        next(p for p in ("vision_tower", "multi_modal_projector", "language_model", "lm_head") if p in n) for n in names
    }


def test_a_training_that_was_killed_goes_on_to_the_same_weights(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(recipe())
    whole = weights(train(path, out=tmp_path / "whole", work=tmp_path / "a"))

    def stop(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(llava.Say, "on_step_end", stop, raising=False)
        with pytest.raises(KeyboardInterrupt):
            train(path, out=tmp_path / "parts", work=tmp_path / "b")
    with pytest.raises(UserError, match="go on with --resume"):
        train(path, out=tmp_path / "parts", work=tmp_path / "b")
    resumed = weights(train(path, out=tmp_path / "parts", work=tmp_path / "b", resume=True))
    assert same(whole, resumed)
    with pytest.raises(UserError, match="another recipe"):
        train(str(recipe(lr=0.5)), work=tmp_path / "b", resume=True)
    again = train(str(recipe(workers=1, log_steps=2)), out=tmp_path / "again", work=tmp_path / "b", resume=True)
    assert same(whole, weights(again)), "knobs may change"
    assert json.loads((again / "training.json").read_text())["session"]["steps"] == 0


@pytest.mark.parametrize("what", ["projector", "all"])
def test_what_is_not_trained_stays_and_the_method_rides_along(
    what: str, recipe: Callable[..., Path], checkpoint: Path, tmp_path: Path
) -> None:
    path = recipe(
        train=what, prompt="plain" if what == "projector" else "v1", grouped=True, gradient_checkpointing=True
    )
    out = train(str(path), out=tmp_path / "out", work=tmp_path / "w")
    assert changed(weights(checkpoint), weights(out)) == set(PARTS[1:2] if what == "projector" else PARTS[1:])
    assert load(out).reducer == build_entry(METHOD)
    record = json.loads((out / "training.json").read_text())
    assert record["recipe"]["train"] == what
    assert 0 < record["session"]["waited_for_data"] < 1 and record["session"]["steps"] == 4


def test_the_projector_alone_learns_nothing_from_a_batch_without_an_image_and_goes_on(
    recipe: Callable[..., Path], checkpoint: Path, data: Path, tmp_path: Path
) -> None:
    (data / "data.json").write_text(json.dumps([r for r in RECORDS if "image" not in r] * 4))
    out = train(str(recipe(train="projector", max_steps=1)), out=tmp_path / "out", work=tmp_path / "w")
    assert changed(weights(checkpoint), weights(out)) == set()


def test_lora_follows_the_seed_and_goes_with_no_sharding(recipe: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    found = []
    for number in range(2):
        path = recipe(lora={"rank": 4, "alpha": 8}, max_steps=1)
        found.append(weights(train(str(path), out=tmp_path / f"o{number}", work=tmp_path / f"w{number}")))
    assert same(*found)
    with pytest.raises(UserError, match="cannot go with sharding"):
        load_recipe(str(recipe(lora={"rank": 4, "alpha": 8}, sharding="zero3", grouped=True)))


def test_several_gpus_need_several_processes(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="torchrun --nproc_per_node=4"):
        train(str(recipe()), work=tmp_path / "w")


def test_lora_is_merged_into_what_is_written(recipe: Callable[..., Path], checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    path = recipe(lora={"rank": 4, "alpha": 8}, max_steps=2)
    out = train(str(path), out=tmp_path / "out", work=tmp_path / "w")
    assert changed(weights(checkpoint), weights(out)) == {"multi_modal_projector", "language_model"}


def test_accumulation_does_not_change_what_is_learnt(recipe: Callable[..., Path], tmp_path: Path) -> None:
    """The loss is the mean over all answer tokens of an optimiser step, however it is cut."""
    found = [
        weights(train(str(recipe(per_device=size, max_steps=2)), out=tmp_path / f"o{size}", work=tmp_path / f"w{size}"))
        for size in (4, 1)
    ]
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=2e-5, rtol=1e-3)


def in_two_processes(recipe: Path, out: Path, work: Path, *more: str) -> dict[str, torch.Tensor]:
    """What two CPU processes make of a recipe."""
    done = subprocess.run(
        [*TORCHRUN, str(Path(__file__).with_name("in_processes.py")), str(recipe), str(out), str(work), *more],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return weights(out)


def test_two_processes_learn_what_one_does(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe(per_device=2, max_steps=3)
    one = weights(train(str(path), out=tmp_path / "one", work=tmp_path / "a"))
    two = in_two_processes(path, tmp_path / "two", tmp_path / "b")
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=1e-2)


VISIONZIP = {"name": "visionzip", "dominant": 9, "contextual": 3}


@pytest.mark.parametrize("method", [{**METHOD, "topk": "ste"}, pytest.param(VISIONZIP, marks=pytest.mark.slow)])
def test_weights_divided_by_fsdp_learn_what_whole_ones_do_and_go_on(
    method: dict[str, Any], recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Scores are made with projections of layers whose weights are not gathered at that time."""
    settings = {"per_device": 2, "max_steps": 3, "grouped": True, "gradient_checkpointing": True, "method": method}
    whole = weights(train(str(recipe(**settings)), out=tmp_path / "whole", work=tmp_path / "a"))
    path = recipe(sharding="fsdp", **settings)
    divided = in_two_processes(path, tmp_path / "divided", tmp_path / "b")
    for name in whole:
        torch.testing.assert_close(whole[name], divided[name], atol=1e-4, rtol=1e-2)
    shutil.rmtree(tmp_path / "b" / "checkpoint-3")
    assert same(divided, in_two_processes(path, tmp_path / "again", tmp_path / "b", "resume"))


@pytest.mark.slow
def test_a_hung_process_ends_a_training_after_the_patience(recipe: Callable[..., Path], tmp_path: Path) -> None:
    script = [str(Path(__file__).with_name("in_processes.py")), str(recipe(save_steps=1)), str(tmp_path / "out")]
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HIDROP_PATIENCE": "0.5"}
    done = subprocess.run(
        [*TORCHRUN, *script, str(tmp_path / "w"), "hang"],
        cwd=ROOT,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "process 0 of 2 waited in vain for another one" in done.stdout, done.stdout + done.stderr[-3000:]
    assert "Start the same command with --resume. HIDROP_PATIENCE=<minutes>" in done.stdout


def test_sharding_needs_batches_of_one_modality(recipe: Callable[..., Path]) -> None:
    """Processes that run other modules than the rest would wait forever for their weights."""
    with pytest.raises(UserError, match="grouped: true"):
        load_recipe(str(recipe(sharding="zero3")))


def test_a_batch_that_processes_cannot_share_is_refused(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="3 processes"):
        train(str(recipe()), work=tmp_path / "w")


def test_broken_images_are_counted_in_the_record(recipe: Callable[..., Path], data: Path, tmp_path: Path) -> None:
    (data / "images/a/0.png").write_bytes(b"x")
    out = train(str(recipe(workers=1)), out=tmp_path / "out", work=tmp_path / "w")
    assert json.loads((out / "training.json").read_text())["replaced_samples"] > 0


def test_the_bundled_recipes_have_the_papers_settings() -> None:
    found = {name: load_recipe(name) for name in bundled() if name.startswith("llava-")}
    assert len(found) == 6
    for name, plan in found.items():
        assert plan.name == name
        stage = name.rsplit("-", 1)[1]
        assert (plan.batch, plan.lr, plan.train) == {
            "pretrain": (256, 1e-3, "projector"),
            "finetune": (128, 2e-5, "all"),
        }[stage]
        assert (plan.warmup, plan.weight_decay, plan.max_length, plan.epochs, plan.dtype) == (
            0.03,
            0,
            2048,
            1,
            "bfloat16",
        )
        assert plan.accumulation(8) == 1
        assert build_entry(plan.method).name == name.split("-")[3]


@pytest.fixture(scope="session")
def stand_in(embedded: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """LLaVA-1.5-7B's layers and tokens in a width of 32: its parts, each in a folder of its own."""
    torch.manual_seed(1)
    return tiny_parts(tmp_path_factory.mktemp("parts"), embedded, layers=32, side=336, patch=14)


@pytest.mark.parametrize("method", ["vanilla", "pdrop", "hidrop"])
def test_the_bundled_recipes_train_a_stand_in_through_both_stages(
    method: str, stand_in: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is smaller than the recipe says: the width, the data, the batch, and no sharding."""
    from evals.cli import main

    model: Any = {name: str(folder) for name, folder in stand_in.items()}
    for stage in ("pretrain", "finetune"):
        name = f"llava-1.5-7b-{method}-{stage}"
        plan = yaml.safe_load(bundled()[name].read_text())
        plan["data"] = {"conversations": str(data / f"{stage}.json"), "images": str(data / "images")}
        plan |= {"model": model, "batch": 2, "per_device": 2, "sharding": None, "workers": 0, "max_steps": 2}
        records = [r for r in RECORDS if "image" in r][:1] * 4 if stage == "pretrain" else RECORDS
        (data / f"{stage}.json").write_text(json.dumps(records))
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(plan))
        assert main(["validate", str(path)]) == 0, capsys.readouterr().out
        model = str(train(str(path), out=tmp_path / stage, work=tmp_path / "work" / stage))
    found = load(model, dtype="auto")
    assert found.geometry.layers == 32 and found.geometry.visual_tokens == 576
    assert found.model.dtype == torch.bfloat16
    assert found.reducer == (None if method == "vanilla" else build_entry(plan["method"])) or method == "vanilla"


def test_what_is_missing_is_told_with_the_way_to_get_it(
    recipe: Callable[..., Path], stand_in: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from evals.cli import main

    assert main(["validate", "llava-1.5-7b-hidrop-finetune"]) == 2
    shown = capsys.readouterr().out
    assert "`run.py train llava-1.5-7b-hidrop-pretrain` writes it" in shown
    assert "Get it with: hf download" in shown
    assert main(["validate", str(recipe(method={"name": "fastv", "layer": 40, "keep": 3}))]) == 2
    assert "method: " in capsys.readouterr().out
    assert main(["validate", str(bundled()["mini-hidrop"])]) == 0
    parts = {name: str(folder) for name, folder in stand_in.items()}
    assert main(["validate", str(recipe(model=parts, method={**METHOD, "exit": 40}))]) == 2
    assert "exit: layer 40" in capsys.readouterr().out
    assert main(["validate", str(recipe(batch=5))]) == 2
    assert "not a multiple of per_device" in capsys.readouterr().err


def test_shipped_sharding_is_what_the_trainer_takes(recipe: Callable[..., Path], tmp_path: Path) -> None:
    plan = load_recipe(str(recipe(sharding="fsdp", grouped=True)))
    arguments = llava.arguments_of(plan, tmp_path / "w")
    assert arguments.fsdp_config["transformer_layer_cls_to_wrap"] == ["LlamaDecoderLayer", "CLIPEncoderLayer"]
    config = json.loads((llava.CONFIGS / "zero3.json").read_text())
    assert config["zero_optimization"]["stage"] == 3
