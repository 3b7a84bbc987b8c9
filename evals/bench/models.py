"""The model that a bench times: a checkpoint, or the sizes of a known model with random weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hidrop.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from hidrop.geometry import Geometry

GEOMETRY = "bench-400m"


def sized(geometry: str | None, model: str | None = None, *, llava: bool = False) -> tuple[str, Geometry]:
    """The name and sizes of what is timed, before any weight is made or read. `llava`: no other family can be timed.

    A number of tokens as the budget is of the image that is timed. Raises UserError.
    """
    from evals.profiling.architectures import ARCHITECTURES
    from hidrop.geometry import PRESETS

    if geometry and model:
        raise UserError(f"give --geometry or --model, not both (got {geometry} and {model})")
    if model:
        from hidrop.models import peek

        return model, referenced(peek(model).geometry)
    name = geometry or GEOMETRY
    # A preset of another family can be made if its tower is known.
    plain = [preset for preset, sizes in PRESETS.items() if not sizes.dynamic and preset not in ARCHITECTURES]
    known = plain if llava else [*plain, *ARCHITECTURES]
    if name not in known:
        raise UserError(f"--geometry {name}: unknown.{did_you_mean(name, known)} Known: {', '.join(known)}")
    return name, referenced(PRESETS[name])


def referenced(geometry: Geometry) -> Geometry:
    """The same with its number of visual tokens as what absolute counts are of."""
    return geometry.counted(geometry.visual_tokens) if geometry.dynamic else geometry


def model_of(name: str, source: str | None, device: str, dtype: str, attention: str = "sdpa") -> Any:
    """The checkpoint `source`, or a model with the sizes of preset `name` and random weights."""
    import torch

    if source:
        from hidrop.backbones import backbone_of, count_by
        from hidrop.models import load

        model = load(source, dtype=dtype, device=device, attention=attention).model
        count_by(model, backbone_of(model).geometry.visual_tokens)
        return SimpleNamespace(model=model, backbone=backbone_of(model), geometry=backbone_of(model).geometry)
    from evals.profiling.random_model import random_model

    torch.manual_seed(0)
    return random_model(name, dtype=getattr(torch, dtype), device=torch.device(device), attention=attention)


def default_dtype(device: str) -> str:
    return "bfloat16" if device.startswith("cuda") else "float32"


def recorder_of(device: str, attention: str) -> Any:
    """What captures CUDA graphs; None where they cannot be captured."""
    if not device.startswith("cuda") or attention != "sdpa":
        return None
    from hidrop.runtime.cuda_graphs import CudaRecorder

    return CudaRecorder()
