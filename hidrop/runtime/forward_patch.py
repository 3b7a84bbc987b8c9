"""A function in the place of one model's `forward`, such that whoever wraps methods (accelerate, DDP) can go on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from types import MethodType
from typing import Any


def bound(
    model: Any,
    forward: Callable[..., Any],
    owner: Any = None,
    signature: inspect.Signature | None = None,
    hidden: Collection[str] = (),
) -> MethodType:
    """`forward` as a method of `model` with a signature: its own, or the one given (`forward` then gets everything by
    name). For mixed precision accelerate takes a method's function and binds it to the model again; generate() and the
    Trainer ask the signature what they may pass on, and do not find the `hidden` names in it. See `owner_of`."""
    own = signature or inspect.signature(forward)
    names = list(own.parameters)

    def method(model: Any, *args: Any, **kwargs: Any) -> Any:
        if signature is None:
            return forward(*args, **kwargs)
        return forward(**dict(zip(names, args, strict=False)), **kwargs)

    first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    known: Any = method
    # A method's own signature may show its `self`, where it was made by this very function.
    rest = [parameter for name, parameter in own.parameters.items() if name not in (first.name, *hidden)]
    known.owner, known.__signature__ = owner, own.replace(parameters=[first, *rest])
    return MethodType(method, model)


def owner_of(method: Any) -> Any:
    """The owner that `bound` was given, however often the method was wrapped since. None for any other method."""
    return None if method is None else getattr(inspect.unwrap(method), "owner", None)
