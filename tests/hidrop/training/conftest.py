"""A tiny LLaVA with the embedded tokenizer, and a file of conversations as LLaVA's, with images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from hidrop.models import load, save
from tests.conftest import enlarged

TOKENS = 100  # of an image
METHOD = {"name": "hidrop", "inject": 2, "filters": [2, 3], "keep": [9, 3], "exit": 5}


@pytest.fixture(scope="session")
def embedded() -> Any:
    return load("mini:vanilla")


@pytest.fixture(scope="session")
def checkpoint(embedded: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random, 5 layers, with the embedded models' tokenizer and image processor."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    of = embedded.model.config
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=of.text_config.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    sizes = of.vision_config
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
    )
    config = LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=of.image_token_id, image_seq_length=TOKENS
    )
    folder = tmp_path_factory.mktemp("student")
    model = enlarged(LlavaForConditionalGeneration(config), 0.1)
    return save(model, embedded.tokenizer, embedded.image_processor, folder)


def said(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


RECORDS: list[dict[str, Any]] = [
    {"id": 1, "image": "a/0.png", "conversations": said("<image>\nWhat is it?", "a red box")},
    {
        "id": "2",
        "image": "a/1.png",
        "conversations": said("Which colour?\n<image>", "blue", "And where?", "at the left"),
    },
    {"id": 3, "conversations": said("How many are two and two?", "4")},
    {"id": 4, "image": ["a/2.png", "a/3.png"], "conversations": said("<image><image>\nAre they the same?", "no")},
    {"id": 5, "conversations": said("Say yes.", "yes", "Say no.", "no")},
    {"id": 6, "image": "a/3.png", "conversations": said("<image>\nIs there a cat?", "yes, a small one")},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """data.json and images/ with `RECORDS` three times over."""
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (60, 90 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "data.json").write_text(json.dumps(RECORDS * 3))
    return tmp_path


@pytest.fixture
def recipe(data: Path, checkpoint: Path) -> Callable[..., Path]:
    """The file of a recipe on `data`, with fields of one's own."""

    def write(**fields: Any) -> Path:
        settings = {
            "name": "tiny",
            "kind": "llava",
            "model": str(checkpoint),
            "train": "all",
            "data": {"conversations": str(data / "data.json"), "images": str(data / "images")},
            "prompt": "v1",
            "image": "pad",
            "method": METHOD,
            "batch": 4,
            "per_device": 2,
            "epochs": 3,
            "lr": 1e-3,
            "dtype": "float32",
            "workers": 0,
            "save_steps": 2,
            "max_steps": 4,
            "gradient_checkpointing": False,
            **fields,
        }
        path = data / "recipe.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    return write


def tiny_parts(folder: Path, embedded: Any, *, layers: int, side: int, patch: int) -> dict[str, Path]:
    """A small random language model and a small random vision tower, each in a folder of its own below `folder`."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        CLIPVisionModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    language, tower = folder / "vicuna", folder / "clip"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=embedded.tokenizer.backend_tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4
    )
    LlamaForCausalLM(text).save_pretrained(language)
    tokenizer.save_pretrained(language)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=side,
        patch_size=patch,
    )  # fmt: skip
    CLIPVisionModel(vision).save_pretrained(tower)
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    CLIPImageProcessorPil(**sizes).save_pretrained(tower)
    return {"language_model": language, "vision_tower": tower}


@pytest.fixture
def parts(embedded: Any, tmp_path: Path) -> dict[str, Path]:
    """A tiny language model and a tiny vision tower."""
    return tiny_parts(tmp_path, embedded, layers=5, side=32, patch=8)
