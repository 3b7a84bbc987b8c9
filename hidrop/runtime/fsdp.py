"""Weights that are divided among processes (FSDP), used outside of the forward that they are gathered for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

T = TypeVar("T")


def within(module: nn.Module, function: Callable[..., T], *args: Any) -> T:
    """`function(*args)`, which calls parts of `module` by themselves, as if it were the module's forward.

    FSDP gathers a layer's weights before its forward and scatters its gradients after its backward; a projection that
    is called by itself would find a piece of its weight. What is to have a gradient must be among `args`.
    """
    if not hasattr(module, "unshard"):
        return function(*args)
    from torch.distributed.fsdp import register_fsdp_forward_method

    holder: Any = module
    holder.part_of_forward = function
    try:
        register_fsdp_forward_method(module, "part_of_forward")
        return holder.part_of_forward(*args)
    finally:
        del holder.part_of_forward
