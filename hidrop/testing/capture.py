"""Properties that a CUDA graph needs, found on a CPU: nothing waits for the device, no data is frozen in."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hidrop.runtime.scoring import View
from hidrop.runtime.tensor_tree import mapped, tensors_of, with_tensors
from hidrop.testing.case import Case
from hidrop.testing.properties import Property, place_of
from hidrop.testing.report import Fault, Skip
from hidrop.testing.watched import Seens

# Operations whose result, or its shape, the host has to know, by what people write.
OPERATIONS = {
    "_local_scalar_dense": "a number is read from a tensor (.item(), float(x), if x: ...)",
    "is_nonzero": "a tensor is read as a condition",
    "equal": "torch.equal",
    "nonzero": "nonzero, or torch.where with a condition alone",
    "masked_select": "masked_select",
    "_unique2": "unique",
    "unique_dim": "unique",
    "unique_consecutive": "unique_consecutive",
    "bincount": "bincount",
    "lift_fresh": "torch.tensor(...), which copies from the host",
}
# Python's ways out of a tensor that are no operation.
METHODS = {
    "item": ".item()",
    "tolist": ".tolist()",
    "cpu": ".cpu()",
    "numpy": ".numpy()",
    "__array__": "numpy reads a tensor",
    "__bool__": "a tensor as a condition (if x: ...)",
    "__float__": "float(x)",
    "__int__": "int(x)",
    "__index__": "a tensor as a number of Python's (range(x), list[x])",
}


class Operations(TorchDispatchMode):
    """Notes operations that wait, with the line of the method."""

    def __init__(self, found: dict[str, str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).split(".")[1]
        if name in ("index", "index_put", "index_put_") and any(
            one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        ):
            note(self.found, "a boolean mask as an index (x[mask])")
        if name in OPERATIONS:
            note(self.found, OPERATIONS[name])
        if str(func) == "aten.repeat_interleave.Tensor" and (kwargs or {}).get("output_size") is None:
            note(self.found, "repeat_interleave with a tensor of counts")
        return func(*args, **(kwargs or {}))


class Calls(TorchFunctionMode):
    """Notes the methods of a tensor that are no operation and wait all the same."""

    def __init__(self, found: dict[str, str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in METHODS:
            note(self.found, METHODS[name])
        if name == "to" and "cpu" in (*args[1:], *(kwargs or {}).values()):
            note(self.found, '.to("cpu")')
        return func(*args, **(kwargs or {}))


def note(found: dict[str, str], what: str) -> None:
    """Once for each line of the method; of two ways to see it, the first."""
    found.setdefault(place_of(traceback.extract_stack()[:-2]) or "in the method", what)


def no_wait(case: Case) -> None:
    if case.method.adaptive:
        raise Skip("an adaptive method may wait for the device: its counts depend on the data")
    found: dict[str, str] = {}
    calls = [call for seens in case.seen for call in calls_of(case, seens)]
    if not calls:
        raise Skip("the method has neither prepare nor a cut")
    for function, arguments in calls:
        shown = mapped(torch.clone, arguments)
        with ExitStack() as stack:
            for block in (torch.no_grad(), Calls(found), Operations(found)):
                stack.enter_context(block)
            function(shown)
    if found:
        raise Fault("; ".join(f"{what}{place}" for place, what in found.items()))


def calls_of(case: Case, seens: Seens) -> Iterator[tuple[Callable[[Any], Any], Any]]:
    """The calls of one forward, each as a function and its argument: something with tensors in it."""
    method = case.method
    if seens.prompt is not None:
        yield method.prepare, seens.prompt
    for seen in seens.cuts:
        yield method.score, seen.view
        if seen.merged is not None:
            yield merging(case, seen.merged.count), (seen.view, seen.merged.score, seen.merged.kept)


def merging(case: Case, count: int) -> Callable[[Any], Any]:
    return lambda given: case.method.merge(given[0], given[1], given[2], count)


def replays(case: Case) -> None:
    """Records the operations of each call for one batch, and runs them on another of its shape."""
    if case.method.adaptive or case.method.rechosen:
        raise Skip("such a method is never captured")
    calls, others = (list(calls_of(case, seens[0])) for seens in (case.seen, case.seen_other))
    if not calls:
        raise Skip("the method has neither prepare nor a cut")
    for (function, first), (_, other) in zip(calls, others, strict=True):
        check_replay(function, first, other)


def check_replay(function: Callable[[Any], Any], first: Any, other: Any) -> None:
    given, others = with_ropes(first), with_ropes(other)
    tensors = [tensor.clone() for tensor in tensors_of(given)]
    if [x.shape for x in tensors] != [x.shape for x in tensors_of(others)]:
        raise Fault("the memory of `prepare` has other shapes for another batch of the same shape")

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        return tensors_of(function(roped(*with_tensors(given, iter(inputs)))))

    with torch.no_grad():
        wanted = tensors_of(function(mapped(torch.clone, other)))
        try:
            graph = make_fx(run)(*tensors)
        except Exception as error:
            place = place_of(traceback.extract_tb(error.__traceback__))
            raise Fault(f"the operations cannot be recorded: they depend on the data{place}") from error
        got = graph(*(tensor.clone() for tensor in tensors_of(others)))
    for one, right in zip(got, wanted, strict=True):
        if one.shape != right.shape or not torch.allclose(one.double(), right.double(), 1e-4, 1e-5, equal_nan=True):
            name = getattr(function, "__name__", "merge")
            raise Fault(
                f"the operations of {name} for one batch, run on another of its shape, give something else than {name} "
                "itself: something of the first batch, a counter or the time is frozen in"
            )


def with_ropes(argument: Any) -> tuple[Any, Any]:
    """An argument of a call, and the tensors inside of its view's `rope`: they depend on what earlier cuts kept."""
    view = argument[0] if isinstance(argument, tuple) else argument
    return argument, view.rope.args if isinstance(view, View) and isinstance(view.rope, partial) else ()


def roped(argument: Any, rope: Any) -> Any:
    """The argument with these tensors inside of its view's `rope`."""
    view, *rest = argument if isinstance(argument, tuple) else (argument,)
    if not isinstance(view, View) or not isinstance(view.rope, partial):
        return argument
    view = replace(view, rope=partial(view.rope.func, *rope))
    return (view, *rest) if rest else view


PROPERTIES: tuple[Property[Case], ...] = (
    Property(
        "no wait",
        "prepare, score and merge never read a value on the host: a GPU would wait, and no CUDA graph can be captured",
        "use torch.where, gather, scatter, topk and masks in place of values, and view.cut for the host's numbers "
        "(keep and merge). A method whose counts depend on the data is `adaptive`, and may wait in `choose`",
        no_wait,
    ),
    Property(
        "replay",
        "the operations that were recorded for one prompt are right for every other prompt of its shape",
        "keep no value in Python between calls, and use none that depends on the data, the time or a counter",
        replays,
    ),
)
