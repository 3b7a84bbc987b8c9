"""Which device to use."""

from __future__ import annotations

from importlib.util import find_spec


def pick_device(asked: str) -> str:
    """The device to use: for `auto`, CUDA if torch is installed and finds a GPU, else the CPU."""
    if asked != "auto":
        return asked
    if find_spec("torch") is None:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
