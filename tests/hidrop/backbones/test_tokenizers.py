"""Where a loaded model's tokenizer is found. Questions are read by it in tests/baselines/test_cdpruner_clip.py."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from hidrop.backbones import backbone_of
from hidrop.backbones.tokenizers import state_tokenizer, tokenizer_of
from hidrop.models import load
from hidrop.pretrained import pretrained
from tests.hidrop.backbones.families import model_of
from tests.tiny_checkpoints import write


def reread(folder: Path) -> Any:
    from transformers import Qwen2VLForConditionalGeneration

    return pretrained(Qwen2VLForConditionalGeneration, folder)


def test_load_states_the_tokenizer() -> None:
    loaded = load("mini:vanilla")
    assert loaded.backbone.tokenizer is loaded.tokenizer


def test_a_model_of_transformers_has_the_tokenizer_of_its_folder(tmp_path: Path) -> None:
    model = reread(write("qwen2_vl", tmp_path))
    assert backbone_of(model).tokenizer.decode([1, 2]) == load(tmp_path).tokenizer.decode([1, 2])
    assert tokenizer_of(model) is tokenizer_of(model)


def test_a_folder_without_a_tokenizer_and_a_model_without_a_folder_are_refused_in_words(tmp_path: Path) -> None:
    model = copy.deepcopy(model_of("qwen2_vl"))
    model.save_pretrained(tmp_path)
    for one in (model, reread(tmp_path)):
        with pytest.raises(ValueError, match="^no tokenizer is known for this Qwen2VLForConditionalGeneration"):
            tokenizer_of(one)
    state_tokenizer(model, "any")
    assert tokenizer_of(model) == "any"
