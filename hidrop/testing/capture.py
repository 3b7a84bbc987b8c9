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

from hidrop.runtime.tensor_tree import mapped, tensors_of, with_tensors
from hidrop.testing.case import Case
from hidrop.testing.properties import Property, place_of
from hidrop.testing.report import Fault, Skip
from hidrop.testing.scores import apart
from hidrop.testing.watched import Seen, Seens

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


def replays(case: Case) -> str | None:
    """Records the operations for one prompt, and runs them on another one of its shape."""
    if case.method.adaptive or case.method.rechosen:
        raise Skip("such a method is never captured")
    pairs = [
        (first, other)
        for one, two in zip(case.seen[:1], case.seen_other[:1], strict=True)  # recording is slow: the batch alone
        for first, other in zip(one.cuts, two.cuts, strict=True)
    ]
    if not pairs:
        raise Skip("the schedule has no cut")
    for first, other in pairs:
        check_replay(case, first, other)
    return None


def check_replay(case: Case, first: Seen, other: Seen) -> None:
    given, others_given = ((seen.view, rope_of(seen.view)) for seen in (first, other))
    tensors, others = tensors_of(given), tensors_of(others_given)
    if [x.shape for x in tensors] != [x.shape for x in others]:
        raise Fault(
            f"the memory of `prepare` has other shapes for another prompt of the same shape (layer {first.view.layer})"
        )

    layer_rope = given[0].rope.func  # type: ignore[attr-defined]

    def run(*tensors_again: torch.Tensor) -> torch.Tensor:
        view, rope = with_tensors(given, iter(tensors_again))
        return case.method.score(replace(view, rope=partial(layer_rope, *rope)))

    with torch.no_grad():
        try:
            graph = make_fx(run)(*(x.clone() for x in tensors))
        except Exception as error:
            place = place_of(traceback.extract_tb(error.__traceback__))
            raise Fault(f"the operations cannot be recorded: they depend on the data{place}") from error
        got = graph(*(x.clone() for x in others))
    if apart(got, other.score, other.view.valid_BV) > 1e-3:
        raise Fault(
            f"the operations of one prompt (after layer {first.view.layer}), run on another of its shape, give other "
            "scores than the method: something of the first is frozen in"
        )


def rope_of(view: Any) -> Any:
    """The tensors that the view's `rope` holds: positions follow from what earlier cuts have kept."""
    assert isinstance(view.rope, partial)
    return view.rope.args


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
