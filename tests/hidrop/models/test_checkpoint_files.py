"""Which files of a checkpoint its answers depend on: they are in the digest of its weights, or refused."""

from __future__ import annotations

import contextlib
import fnmatch
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hidrop.errors import UserError
from hidrop.models import checkpoint_files, digest, load, peek, save
from hidrop.models.sources import SETTINGS
from hidrop.pretrained import pretrained


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIDROP_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def saved(model: Any, tokenizer: Any, image_processor: Any, tmp_path: Path) -> Path:
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return save(model, tokenizer, image_processor, tmp_path / "tiny")


def digest_of(folder: Path) -> str:
    return digest(checkpoint_files(folder))


def changed(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b" ")


def test_every_file_that_a_checkpoint_is_saved_with_counts(saved: Path) -> None:
    for name in ("merges.txt", "tokenizer.model", "chat_template.json", "qwen.tiktoken", "preprocessor_config.json"):
        (saved / name).write_text("{}")
    (saved / "additional_chat_templates").mkdir()
    (saved / "additional_chat_templates/tools.jinja").write_text("")
    files = [file for file in saved.rglob("*") if file.is_file()]
    assert len(files) > 8
    for file in files:
        before = digest_of(saved)
        changed(file)
        assert digest_of(saved) != before, file.name


def test_what_no_answer_depends_on_does_not_count(saved: Path) -> None:
    before = digest_of(saved)
    for name in ("README.md", "optimizer.pt", "pytorch_model.bin", "events.out.tfevents.1", "train.log", ".DS_Store"):
        (saved / name).write_text("x")
    assert digest_of(saved) == before


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "model.safetensors", "mm_projector.bin", "tokenizer.json"]
)
def test_the_files_of_a_separate_tower_count(original: Callable[..., Path], image_processor: Any, name: str) -> None:
    folder = original(tower="apart", projector="apart")
    tower = folder.parent / "clip-tiny"
    image_processor.save_pretrained(tower)
    before = digest_of(folder)
    place = folder if name in ("mm_projector.bin", "tokenizer.json") else tower
    if name.endswith(".json"):
        (place / name).write_text(json.dumps(json.loads((place / name).read_text()) | {"a": 1}))
    elif name.endswith(".bin"):
        tensors = torch.load(place / name, weights_only=True)
        torch.save({key: value + 1 for key, value in tensors.items()}, place / name)
    else:
        from safetensors.torch import load_file, save_file

        save_file({key: value + 1 for key, value in load_file(place / name).items()}, place / name)
    assert digest_of(folder) != before


def test_an_adapter_that_transformers_would_add_is_refused(saved: Path, logits: Any, model: Any) -> None:
    peft = pytest.importorskip("peft")
    from transformers import LlavaForConditionalGeneration

    adapted = peft.get_peft_model(
        pretrained(LlavaForConditionalGeneration, saved), peft.LoraConfig(target_modules=["q_proj"], r=2)
    )
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(saved)
    assert not torch.allclose(logits(pretrained(LlavaForConditionalGeneration, saved).eval()), logits(model))
    for read in (load, peek, checkpoint_files):
        with pytest.raises(UserError, match=r"adapter next to the weights \(adapter_config\.json, adapter_model"):
            read(saved)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_a_part_of_an_adapter_is_refused_too(saved: Path, name: str) -> None:
    (saved / name).write_text("{}")
    with pytest.raises(UserError, match=r"Merge it into the weights, or move it away"):
        load(saved)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_vocabulary_files_of_every_tokenizer_of_transformers_count() -> None:
    import transformers
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

    known = set()
    for entry in TOKENIZER_MAPPING_NAMES.values():
        for name in entry if isinstance(entry, (tuple, list)) else (entry,):
            with contextlib.suppress(AttributeError, ImportError):  # some need sentencepiece, and name its *.model
                known |= set(getattr(transformers, name or "").vocab_files_names.values())
    assert len(known) > 10
    assert [name for name in known if not any(fnmatch.fnmatchcase(name, pattern) for pattern in SETTINGS)] == []
