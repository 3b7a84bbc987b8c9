"""Fewer visual tokens in multimodal LLMs: HiDrop and the methods that it competes with, on one runtime.

    from hidrop import load, reduce

    loaded = load("llava-hf/llava-1.5-7b-hf", dtype="bfloat16", device="cuda")
    with reduce(loaded.model, "fastv", keep=64):
        loaded.model.generate(**inputs)

What is imported here is loaded when it is first used, so that `import hidrop` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hidrop.budget import solve
    from hidrop.methods import build
    from hidrop.models import load
    from hidrop.reducer import Reducer
    from hidrop.runtime import reduce

__all__ = ["Reducer", "build", "load", "reduce", "solve"]

_HOMES = {
    "Reducer": "hidrop.reducer",
    "build": "hidrop.methods",
    "load": "hidrop.models",
    "reduce": "hidrop.runtime",
    "solve": "hidrop.budget",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("hidrop")
    if name not in _HOMES:
        raise AttributeError(f"module 'hidrop' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
