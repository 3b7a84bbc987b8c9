"""Takes the vision side out of a timing: inside a block, tower and projector return recorded outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from hidrop.backbones import backbone_of


def vision_modules(model: Any) -> list[nn.Module]:
    """The modules between the pixels and the decoder's input: vision tower and projector, if that is not inside."""
    backbone = backbone_of(model)
    inside = any(module is backbone.projector for module in backbone.tower.modules())
    return [backbone.tower] if inside else [backbone.tower, backbone.projector]


def record_vision(modules: Sequence[nn.Module], forward: Callable[[], Any]) -> dict[nn.Module, Any]:
    """What tower and projector (`modules`) return during `forward()`. Modules that are not called are missing."""
    answers: dict[nn.Module, Any] = {}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        answers[module] = copy.copy(output)  # some models change what their tower has returned

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return answers


@contextmanager
def replayed_vision(answers: Mapping[nn.Module, Any]) -> Iterator[Callable[[], bool]]:
    """Inside the block each module in `answers` returns its recorded output, without computing anything.

    A forward with the same pixels then only runs the decoder, the LM head and the insertion of the features. `forward`
    is replaced on these instances only and restored on leaving, so this works for every runtime that calls tower and
    projector as modules. Yields a function that tells whether the block has called all of them. If it returns False,
    the vision side was computed in another way and is still in the timing.
    """
    asked: set[nn.Module] = set()

    def answer_of(module: nn.Module) -> Callable[..., Any]:
        def answer(*args: Any, **kwargs: Any) -> Any:
            asked.add(module)
            return copy.copy(answers[module])

        return answer

    shadowed = {module: module.__dict__.get("forward") for module in answers}
    try:
        for module in answers:
            module.__dict__["forward"] = answer_of(module)
        yield lambda: bool(answers) and asked == set(answers)
    finally:
        for module, original in shadowed.items():
            if original is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = original
