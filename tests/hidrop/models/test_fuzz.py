"""Whatever is in a checkpoint's files, loading it ends in a model or in a message, and never in a traceback.

What `check` accepts has to load and to answer. Each test runs on some inputs; the long ones, on thousands, with
`-m slow`.
"""

from __future__ import annotations

import copy
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from hidrop.errors import UserError
from hidrop.models import check, load, peek, save

SOME = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(SOME, max_examples=500)
few_and_many = pytest.mark.parametrize(
    "effort", [SOME, pytest.param(MANY, marks=pytest.mark.slow)], ids=["some", "many"]
)
WORDS = [
    *(
        "llava",
        "llama",
        "clip",
        "default",
        "full",
        "<image>",
        "gelu",
        "<s>",
        "w5",
        "LlavaProcessor",
        "auto",
        "../x",
        "",
    ),
    *("\ud800", "linear", "dynamic", "yarn", "float16", "WordLevel", "TemplateProcessing", "\0", "CLIPImageProcessor"),
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.sampled_from([2**20, 2**31, 2**63, -(2**31), 10**40]),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=6),
)
KEYS = st.one_of(st.sampled_from(WORDS), st.text(max_size=4))
VALUES = st.one_of(
    SCALARS,
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
        max_leaves=8,
    ),
    st.integers(20, 60).map(lambda levels: json.loads("[" * levels + "]" * levels)),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested objects and lists, of large ones the first."""
    found = [path]
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, inner in items[:30]:
        found += places(inner, (*path, key))
    return found


def changed(draw: Callable[..., Any], content: dict[str, Any]) -> Any:
    """A JSON file's content with one or two places set to something else, removed, or added to."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 2))):
        found = [path for path in places(content) if path]
        if not found:
            return draw(VALUES)
        *path, last = draw(st.sampled_from(found))
        owner: Any = content
        for key in path:
            owner = owner[key]
        match draw(st.sampled_from(["set", "set", "set", "remove", "add"])):
            case "set":
                owner[last] = draw(VALUES)
            case "remove":
                del owner[last]
            case "add" if isinstance(owner, dict):
                owner[draw(KEYS)] = draw(VALUES)
    return content


def damaged(draw: Callable[..., Any], data: bytes, most: int) -> bytes:
    """Bytes with some of the first `most` put in, taken out or doubled, or the rest cut off."""
    start = draw(st.integers(0, min(len(data), most)))
    end = min(len(data), start + draw(st.integers(0, 20)))
    new = draw(st.one_of(st.binary(max_size=6), st.sampled_from([data[start:end] * 2, b"", b"[", b"\0"])))
    return data[:start] if draw(st.booleans()) else data[:start] + new + data[end:]


def spoil(draw: Callable[..., Any], file: Path) -> None:
    """Change one file of a checkpoint."""
    data = file.read_bytes()
    if file.suffix == ".safetensors":
        length = struct.unpack("<Q", data[:8])[0]
        if draw(st.booleans()):
            file.write_bytes(damaged(draw, data, draw(st.sampled_from([10, 8 + length, len(data)]))))
            return
        header = json.dumps(changed(draw, json.loads(data[8 : 8 + length]))).encode()
        file.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
        return
    match draw(st.sampled_from(["change", "change", "change", "replace", "damage", "remove"])):
        case "change":
            file.write_text(json.dumps(changed(draw, json.loads(data))))
        case "replace":
            file.write_text(json.dumps(draw(VALUES)))
        case "damage":
            file.write_bytes(damaged(draw, data, len(data)))
        case "remove":
            file.unlink()


def ends_well(folder: Path) -> None:
    """Peek, check and load the checkpoint, and ask it: anything but words, or an answer, is a mistake."""
    accepted = False
    try:
        peek(folder)
        check(folder)
        accepted = True
        loaded = load(folder)
    except UserError as error:
        said = str(error)
        assert not accepted, f"what the check takes, loads: {said}"
        assert said and len(said) < 4000 and said.encode()
        assert str(folder) in said or str(folder.parent / "clip-tiny") in said
        return
    image = Image.new("RGB", (50, 32), (9, 99, 199))
    batch = loaded.processor(images=[image], text="w5 <image> w6", return_tensors="pt")
    with torch.no_grad():
        logits = loaded.model(input_ids=batch["input_ids"], pixel_values=batch["pixel_values"]).logits
    assert logits.shape[-1] == loaded.geometry.vocab


def fuzz(effort: settings, source: Path, folder: Path) -> None:
    """Spoil one or two files of copies of `source`, and load them."""
    names = sorted(p.name for p in source.iterdir() if p.suffix in (".json", ".safetensors"))

    @effort
    @given(st.data())
    def run(data: st.DataObject) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)):
            spoil(data.draw, folder / name)
        ends_well(folder)

    run()


def in_shards(folder: Path) -> Path:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    file.unlink()
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    where = {name: shards[place % 2] for place, name in enumerate(tensors)}
    for shard in shards:
        save_file({n: t for n, t in tensors.items() if where[n] == shard}, folder / shard, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@few_and_many
def test_a_checkpoint_loads_or_is_refused_in_words(
    effort: settings, model: Any, tokenizer: Any, image_processor: Any, tmp_path: Path
) -> None:
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    fuzz(effort, in_shards(save(model, tokenizer, image_processor, tmp_path / "whole")), tmp_path / "spoiled")


@few_and_many
def test_a_checkpoint_in_the_original_layout_loads_or_is_refused_in_words(
    effort: settings, original: Any, tmp_path: Path
) -> None:
    folder = original("whole", shards=2, suffix="safetensors", tower="apart", image_aspect_ratio="pad")
    fuzz(effort, folder, tmp_path / "spoiled")
    tower = tmp_path / "clip-tiny"
    kept = tmp_path / "kept"
    tower.rename(kept)

    @settings(effort, max_examples=effort.max_examples // 2)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        shutil.rmtree(tower, ignore_errors=True)
        shutil.copytree(kept, tower)
        spoil(data.draw, tower / data.draw(st.sampled_from(sorted(p.name for p in kept.iterdir()))))
        ends_well(folder)

    run()
