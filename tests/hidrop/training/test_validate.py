"""What `validate` accepts, trains to a checkpoint that loads; what would end a training, it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hidrop import build
from hidrop.errors import UserError
from hidrop.geometry import PRESETS, Geometry
from hidrop.hidrop import HiDrop
from hidrop.models import load
from hidrop.models.sources import MINI
from hidrop.recipes import check, train
from hidrop.reducer import Published
from hidrop.strict_yaml import checked
from hidrop.training.recipe import LlavaRecipe
from tests.hidrop.training.conftest import METHOD, RECORDS, TOKENS, said

Recipe = Callable[..., Path]


def refused(recipe: Path, *parts: str, **folders: Path) -> None:
    problems = check(str(recipe), **folders).problems
    assert problems
    text = "\n".join(problems)
    for part in parts:
        assert part in text


def test_what_is_accepted_ends_in_a_folder_that_loads(recipe: Recipe, tmp_path: Path) -> None:
    path, out, work = str(recipe(max_steps=1)), tmp_path / "out", tmp_path / "w"
    found = check(path, out=out, work=work)
    assert (found.problems, found.notes) == ([], [])
    assert not out.exists() and not work.exists(), "it writes nothing"
    loaded = load(train(path, out=out, work=work))
    assert loaded.model.config.image_aspect_ratio == "pad" and not loaded.backbone.shapes_images
    [note] = check(path, out=out, work=work).notes
    assert "`train --resume` continues it from checkpoint-1" in note


def test_a_checkpoint_trained_on_the_middle_of_images_is_evaluated_so(recipe: Recipe, tmp_path: Path) -> None:
    path = str(recipe(max_steps=1, image="square"))
    assert check(path).problems == []
    assert load(train(path, out=tmp_path / "out", work=tmp_path / "w")).backbone.shapes_images


def test_folders_that_cannot_be_written_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(recipe(), "--out", "is a file, not a folder", out=tmp_path / "file" / "out", work=tmp_path / "w")
    refused(recipe(), "the training's folder", "is a file", out=tmp_path / "out", work=tmp_path / "file")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def not_into(recipe: Path, *parts: str, out: Path, work: Path, keep: Path) -> None:
    """`check` and `train` both refuse to write there, and nothing of `keep` changes."""
    before = content(keep)
    refused(recipe, *parts, out=out, work=work)
    with pytest.raises(UserError) as caught:
        train(str(recipe), out=out, work=work)
    assert all(part in str(caught.value) for part in parts)
    assert content(keep) == before


@pytest.mark.parametrize(
    "kind", ["same", "inside", "around", "link to the folder", "dots", "link to a file", "hard link"]
)
@pytest.mark.parametrize("field", ["out", "work"])
def test_a_training_does_not_write_into_the_folder_that_it_starts_from(
    kind: str, field: str, recipe: Recipe, checkpoint: Path, tmp_path: Path
) -> None:
    model, linked = tmp_path / "models/start", tmp_path / "linked"
    shutil.copytree(checkpoint, model)
    linked.mkdir()
    folder, message = {
        "same": (model, "is the folder of"),
        "inside": (model / "tuned", "is inside the folder of"),
        "around": (model.parent, "is around the folder of"),
        "link to the folder": (tmp_path / "other", "is the folder of"),
        "dots": (model / "x/..", "is the folder of"),
        "link to a file": (linked, "has a link to a file of"),
        "hard link": (linked, "has a link to a file of"),
    }[kind]
    (tmp_path / "other").symlink_to(model)
    if kind == "link to a file":
        (linked / "model.safetensors").symlink_to(model / "model.safetensors")
    if kind == "hard link":
        (linked / "model.safetensors").hardlink_to(model / "model.safetensors")
    free = {"out": tmp_path / "out", "work": tmp_path / "w"}
    not_into(recipe(model=str(model)), message, "Choose another folder", **{**free, field: folder}, keep=model)
    assert check(str(recipe(model=str(model))), out=tmp_path / "models/start-2", work=tmp_path / "w").problems == []


def test_a_training_does_not_write_into_the_folder_of_a_part(recipe: Recipe, parts: Any, tmp_path: Path) -> None:
    path = recipe(model={name: str(folder) for name, folder in parts.items()})
    for folder in parts.values():
        not_into(path, f"is the folder of {folder}", out=folder, work=tmp_path / "w", keep=folder)


def test_a_training_of_an_embedded_model_does_not_write_into_its_start(tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(MINI / "vanilla", start)
    lesson = {"data": "captions", "steps": 4, "batch": 1, "lr": 1e-3}
    recipe = tmp_path / "mini-again.yaml"
    recipe.write_text(yaml.safe_dump({"name": "mini-again", "start": str(start), "lessons": [lesson]}))
    not_into(recipe, "--out", f"is the folder of {start}", out=start, work=tmp_path / "w", keep=start)


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def without_eos(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda t: t.update(eos_token=None))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "model.safetensors: cannot be read"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("tokenizer*")], "tokenizer or image processor cannot"),
    "no eos": (without_eos, "the tokenizer has no eos_token"),
    "config": (lambda f: (f / "config.json").write_text("[]"), "config.json: holds a list"),
    "crop": (
        lambda f: edit(f / "processor_config.json", lambda p: p["image_processor"].update(crop_size=64)),
        "makes images of 3 x 64 x 64, but the vision tower takes 3 x 80 x 80",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_model_that_would_not_load_is_refused(what: str, recipe: Recipe, checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint, folder)
    spoil, message = BROKEN[what]
    spoil(folder)
    path = recipe(model=str(folder))
    refused(path, message)
    with pytest.raises(UserError) as caught:
        train(str(path), out=tmp_path / "out", work=tmp_path / "w")
    assert message in str(caught.value)


def test_a_published_setting_is_refused_for_a_model_of_other_sizes_and_ends_no_training_late(recipe: Recipe) -> None:
    path = recipe(method={"name": "hidrop", "published": 64})
    said = "method: hidrop: published: 64 is a setting for llava-1.5-7b"
    refused(path, said, "this model has 5 layers and 100 visual tokens")
    with pytest.raises(UserError, match=said):
        train(str(path))


def test_a_published_setting_trains_a_model_of_its_sizes(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = dict(hidden=32, intermediate=48, heads=4, kv_heads=2, head_dim=8, vocab=600)
    monkeypatch.setitem(PRESETS, "tiny", Geometry(layers=5, visual_tokens=TOKENS, **sizes))
    fields = {key: tuple(v) if isinstance(v, list) else v for key, v in METHOD.items() if key != "name"}
    monkeypatch.setattr(HiDrop, "published", {"9": Published(fields, ("tiny",))})
    path = str(recipe(max_steps=1, method={"name": "hidrop", "published": 9}))
    assert check(path).problems == []
    assert load(train(path, out=tmp_path / "out", work=tmp_path / "w")).reducer == build("hidrop", fields)


def test_images_that_are_missing_are_named_and_too_many_are_refused(recipe: Recipe, data: Path) -> None:
    (data / "images/a/1.png").unlink()
    [note] = check(str(recipe())).notes
    assert "1 of 4 images are not in" in note and "the first: a/1.png; 3 samples are without theirs" in note
    for path in (data / "images/a").iterdir():
        path.unlink()
    refused(recipe(), "4 of 4 images are not in", "Training stops at more than 100 in a row")
    shutil.rmtree(data / "images")
    (data / "images").write_text("")
    refused(recipe(), "images is not a folder")


def test_broken_images_are_found_by_trying_some(recipe: Recipe, data: Path) -> None:
    (data / "images/a/0.png").write_bytes(b"no image")
    notes = check(str(recipe())).notes
    assert len(notes) == 1 and "samples with images cannot be used: sample 0: " in notes[0]
    for path in (data / "images/a").iterdir():
        path.write_bytes(b"")
    refused(recipe(), "no sample with images can be used")


def test_a_length_that_no_image_fits_into_is_refused(recipe: Recipe) -> None:
    refused(recipe(max_length=99), "no sample with images can be used", "an image that the longest length cuts off")


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([], "no usable conversation"),
        ({}, "not a list of conversations"),
        (RECORDS[:1], "1 samples give no batch of 4"),
        ([{"conversations": said("q", "half \ud83d")}], "half of a surrogate pair"),
    ],
)
def test_data_that_gives_no_batch_is_refused(recipe: Recipe, data: Path, records: Any, message: str) -> None:
    (data / "data.json").write_text(json.dumps(records))
    refused(recipe(), message)


def test_half_a_surrogate_pair_costs_its_record_alone_and_is_named(
    recipe: Recipe, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = {"id": 7, "conversations": said("Say hello.", "hello \ud83d")}
    (data / "data.json").write_text(json.dumps([RECORDS[0], bad, *RECORDS]))
    [note] = check(str(recipe())).notes
    assert "1 x half of a surrogate pair, a character that was cut in two (first: record 2)" in note
    with caplog.at_level("WARNING"):
        load(train(str(recipe(max_steps=1)), out=tmp_path / "out", work=tmp_path / "w"))
    assert "first: record 2" in caplog.text


def test_what_this_machine_cannot_compute_is_refused(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(recipe(attention="flash_attention_2"), "flash_attention_2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    refused(recipe(), "2 GPUs and one process")
    monkeypatch.undo()

    def refuse(**settings: Any) -> None:
        raise ValueError("Your setup doesn't support bf16/gpu.")

    monkeypatch.setattr("hidrop.training.run.TrainingArguments", refuse)
    refused(recipe(dtype="bfloat16"), "refused by transformers' Trainer on this machine (Your setup doesn't")


def test_fields_beyond_all_use_are_refused_by_the_recipe(recipe: Recipe) -> None:
    fields: dict[str, Any] = {
        "lr": float("inf"), "epochs": float("nan"), "seed": -1, "workers": 10**6, "batch": 2**40,
        "attention": "spda", "weight_decay": float("inf"),
    }  # fmt: skip
    data = yaml.safe_load(recipe().read_text())
    for name, value in fields.items():
        with pytest.raises(UserError, match=name):
            checked(LlavaRecipe, {**data, name: value}, "recipe.yaml")
        # A number that is not finite is refused before it has a name, with its line.
        there = name if isinstance(value, (int, str)) else r"line \d+, column \d+\): '\.(inf|nan)' is not a number"
        with pytest.raises(UserError, match=there):
            check(str(recipe(**{name: value})))
    refused(recipe(lora={"rank": 64, "alpha": 1}), "lora.rank: 64 is more than the decoder's width (32)")


def test_a_training_that_cannot_be_resumed_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    work, out = tmp_path / "w", tmp_path / "out"
    train(str(recipe(max_steps=1)), out=out, work=work)
    refused(recipe(max_steps=1, lr=0.5), "another recipe (lr differ", out=out, work=work)
    path = recipe(max_steps=1)
    for state in work.glob("checkpoint-*"):
        (state / "trainer_state.json").write_text("null")
    refused(path, "no saved state of this training is whole", "trainer_state.json: holds null", out=out, work=work)


def test_shards_of_an_earlier_checkpoint_are_not_read_instead_of_the_new_one(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    load(train(str(recipe(max_steps=1)), out=out, work=tmp_path / "w"))


def test_parts_of_a_new_model_are_checked_whole(recipe: Recipe, parts: Any) -> None:
    names = {name: str(folder) for name, folder in parts.items()}
    path = recipe(model=names)
    assert check(str(path)).problems == []
    language, tower = parts["language_model"], parts["vision_tower"]
    for file, text, message in (
        (language / "model.safetensors", "x" * 99, "model.safetensors: cannot be read"),
        (language / "config.json", "3", "config.json: holds a number"),
        (language / "config.json", '{"model_type": "gpt2"}', "model_type 'gpt2' is not supported here, only llama"),
        (language / "tokenizer.json", "[]", "tokenizer.json: holds a list"),
        (tower / "config.json", '{"model_type": ["clip"]}', "is not supported here, only clip"),
        (tower / "model.safetensors", "", "model.safetensors: cannot be read"),
        (tower / "preprocessor_config.json", "{", "preprocessor_config.json: not JSON"),
    ):
        before = file.read_bytes()
        file.write_text(text)
        refused(path, message)
        file.write_bytes(before)
    edit(tower / "preprocessor_config.json", lambda p: p.update(crop_size={"height": 24, "width": 24}))
    refused(path, "makes images of 3 x 24 x 24, but the vision tower takes 3 x 32 x 32")
