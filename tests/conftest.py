"""Tiny random LLaVA models and prompts, shared by all tests: those of hidrop/testing/tiny/llava.py, as fixtures too."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from transformers import PreTrainedConfig

from hidrop.testing.tiny.llava import (
    IMAGE,
    PINPOINTS,
    VOCAB,
    enlarged,
    make_llava,
    make_llava_next,
    make_pixels,
    make_prompt,
    pad,
    tiny_parts,
)

torch.set_num_threads(1)
gc.disable()  # until the first test: what is imported stays
# transformers writes whole configs as JSON into type errors that it catches itself: half of the time that a tiny model
# takes to be built or to generate.
PreTrainedConfig.__repr__ = object.__repr__
_NUMBERS = itertools.count()

__all__ = [
    "IMAGE",
    "PINPOINTS",
    "VOCAB",
    "enlarged",
    "make_llava",
    "make_llava_next",
    "make_pixels",
    "make_prompt",
    "pad",
    "tiny_parts",
]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of every family, by name. Tests share them: change copies only (`edited_checkpoint`)."""
    from tests import tiny_checkpoints

    root = tmp_path_factory.mktemp("families")
    return {name: tiny_checkpoints.write(name, root / name) for name in tiny_checkpoints.FAMILIES}


@pytest.fixture(autouse=True, scope="module")
def only_own_objects_to_collect() -> None:
    """Let garbage collections skip what earlier files have imported: going through it is a fifth of a test's time."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_remembered(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test check and read everything itself, and keep what it remembers out of the user's cache."""
    folder = tmp_path_factory.getbasetemp() / "remembered" / str(next(_NUMBERS))
    monkeypatch.setattr("hidrop.remembered.cache_folder", lambda: folder)


@pytest.fixture
def tiny_llava() -> Callable[..., Any]:
    return make_llava


@pytest.fixture
def prompt() -> Callable[..., torch.Tensor]:
    return make_prompt


@pytest.fixture
def pixels() -> Callable[..., torch.Tensor]:
    return make_pixels


@pytest.fixture
def padded() -> Callable[..., dict[str, torch.Tensor]]:
    return pad
