"""Tensors that a method makes without a device: on a GPU they would be on the CPU, where nothing can go with them.

Nothing here needs a GPU. A tensor that comes from a call with neither a tensor nor a device as an argument, such as
torch.arange(9), is on the host, and so is what is made of such tensors alone. Everything else is on the model's device.
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hidrop.runtime.tensor_tree import mapped, tensors_of
from hidrop.testing.case import Case
from hidrop.testing.properties import Property, place_of
from hidrop.testing.report import Fault, Skip
from hidrop.testing.watched import Seens

# What takes only the shape or type of a second tensor, or copies from one device to another.
ACROSS = {"to", "type_as", "expand_as", "view_as", "reshape_as", "copy_", "__setitem__"}
MOVES = {"to", "type_as", "cuda"}
NO_DEVICE = (None, "cpu")


class Devices(TorchFunctionMode):
    """Notes where tensors of the host meet others. `found`: lines of the method, with what was called there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        # By id; each tensor is kept, so that no other gets its id. With the name of the call that made it.
        self.host: dict[int, tuple[torch.Tensor, str]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        given = tensors_of((args, kwargs))
        hosts = [one for one in given if id(one) in self.host]
        origin = self.host[id(hosts[0])][1] if hosts else f"torch.{name}"
        # A single number may go with tensors of any device.
        if len(hosts) < len(given) and any(one.ndim for one in hosts) and name not in ACROSS:
            self.note(origin)
        answer = func(*args, **kwargs)
        if moved(name, args, kwargs):
            # Here it is moved to where it is already, and may be the same tensor.
            return answer.view(answer.shape) if id(answer) in self.host else answer
        if len(hosts) == len(given):
            for one in tensors_of(answer):
                self.host[id(one)] = (one, origin)
        return answer

    def note(self, origin: str) -> None:
        place = place_of(traceback.extract_stack()[:-2]) or " in the method"
        self.found.setdefault(place, f"{origin} is called without a device, and meets a tensor of the model's")

    def check(self, value: Any, what: str) -> None:
        """Notes a tensor of the host in what a method gives."""
        for one in tensors_of(value):
            if id(one) in self.host and one.ndim:
                origin = self.host[id(one)][1]
                self.found.setdefault(f" in what {what} gives", f"{origin} is called without a device")


def moved(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call names the device of its result."""
    if kwargs.get("device") not in NO_DEVICE:
        return True
    if name not in MOVES:
        return False
    return name != "to" or any(
        isinstance(one, (torch.device, torch.Tensor)) or (isinstance(one, str) and one != "cpu") for one in args[1:]
    )


def one_device(case: Case) -> None:
    if not any(seens.prompt is not None or seens.cuts for seens in case.seen):
        raise Skip("the method has neither prepare nor a cut")
    watch = Devices()
    for seens in case.seen:
        with torch.no_grad(), watch:
            call_all(case, seens, watch)
    if watch.found:
        raise Fault("; ".join(f"{what}{place}" for place, what in watch.found.items()))


def call_all(case: Case, seens: Seens, watch: Devices) -> None:
    """Every call of one forward again, each with what `prepare` gives this time."""
    method = case.method
    memory = None if seens.prompt is None else method.prepare(mapped(torch.clone, seens.prompt))
    for seen in seens.cuts:
        view = replace(mapped(torch.clone, replace(seen.view, memory=None)), memory=memory)
        score = method.choose(view)[0] if method.adaptive else method.score(view)
        watch.check(score, "score")
        if seen.merged is not None:
            kept = seen.merged.kept.clone()
            watch.check(method.merge(view, score, kept, seen.merged.count), "merge")


PROPERTIES: tuple[Property[Case], ...] = (
    Property(
        "device",
        "prepare, score, choose and merge make tensors on the device of those that they are shown: one that is made "
        "without a device is on the CPU, and on a GPU PyTorch refuses to use the two together",
        "write torch.arange(n, device=view.hidden_BND.device) (also zeros, ones, full, tensor, eye, rand), or use "
        "x.new_zeros(...) and torch.zeros_like(x)",
        one_device,
    ),
)
