"""What a folder without a whole checkpoint's weights is instead, and what goes with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hidrop.checkpoint_files import AGAIN
from hidrop.errors import some_of

SHARD = re.compile(r"(model|pytorch_model)-(\d+)-of-(\d+)\.(safetensors|bin)")
# By a pattern of file names: what it is, and what to do.
OTHERS = (
    ("adapter_config.json", "a LoRA adapter without its base model. Merge it into the base first"),
    ("non_lora_trainables.bin", "a LoRA adapter without its base model. Merge it into the base first"),
    ("*.gguf", "weights for llama.cpp (GGUF), which are not read here. Get the checkpoint for transformers"),
    ("consolidated*.pth", "weights in Meta's format, which are not read here. Get the checkpoint for transformers"),
    ("*.msgpack", "weights for JAX, which are not read here. Get the checkpoint for PyTorch"),
    ("*.h5", "weights for TensorFlow, which are not read here. Get the checkpoint for PyTorch"),
    ("global_step*", "a training's state in DeepSpeed's parts. Its zero_to_fp32.py makes weights of it"),
    ("checkpoint-*", "a training's folder. Name the checkpoint-... in it, or the final model"),
)


def what_instead(folder: Path) -> str:
    """What to tell of a folder with a config.json in which no weights are where they belong."""
    return (
        _shards(folder)
        or _projector(folder)
        or next((words for pattern, words in OTHERS if any(folder.glob(pattern))), None)
        or "no weights here (looked for model.safetensors, pytorch_model.bin and their index files). " + AGAIN
    )


def listed(names: Iterable[str]) -> str:
    """The first few of some names, for a message."""
    return some_of(sorted(names), 5)


def _shards(folder: Path) -> str | None:
    """Shards, of which the index file says which tensor is in which."""
    found = [match for file in sorted(folder.iterdir()) if (match := SHARD.fullmatch(file.name))]
    if not found:
        return None
    stem, _, count, suffix = found[0].groups()
    there = {int(match[2]) for match in found if match.group(1, 3, 4) == (stem, count, suffix)}
    lacking = sorted(set(range(1, min(int(count), 1000) + 1)) - there)
    index = f"{stem}.{suffix}.index.json"
    also = f", and {len(lacking)} of the {int(count)} shards (number {listed(map(str, lacking))})" if lacking else ""
    return (
        f"shards of weights without {index}, which says what is in them{also}. Copy or download what is missing into "
        f"{folder}"
    )


def _projector(folder: Path) -> str | None:
    """What the first of LLaVA's two stages leaves."""
    if not (folder / "mm_projector.bin").is_file():
        return None
    return (
        "a projector alone (mm_projector.bin), as LLaVA's first stage (pretraining) leaves it. It goes with the "
        "language model that it was trained on: put that model's weights (model*.safetensors or pytorch_model*.bin, "
        f"with their index file) and tokenizer into {folder}; the vision tower stays in its own folder"
    )
