"""A method with everything that the runtime showed it, and everything that it answered, kept for a check.

Each view and prompt is copied before the method sees it, so that it can be shown again, changed or not, without the
model, and so that a change made in place shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from hidrop.plan import Cut
from hidrop.reducer import Mixture, Reducer
from hidrop.runtime.scoring import Prompt, View
from hidrop.runtime.tensor_tree import mapped, tensors_of


@dataclass(frozen=True)
class Seen:
    """One cut: the view as the method got it, its score, and the merged tokens if there are any.

    `changed`: the names of what the method has changed in place.
    """

    view: View
    score: torch.Tensor
    changed: tuple[str, ...]
    merged: Merged | None = None


@dataclass(frozen=True)
class Merged:
    """The arguments of a call of `merge`, and what it gave."""

    score: torch.Tensor
    kept: torch.Tensor
    count: int
    mixture: Mixture


@dataclass
class Seens:
    """What happened in one forward."""

    prompt: Prompt | None = None
    memory: Any = None
    prompt_changed: tuple[str, ...] = ()
    cuts: list[Seen] = field(default_factory=list)


class Watched:
    """In the place of a reducer in a reduction: answers as it does, and keeps what was asked."""

    def __init__(self, reducer: Reducer, *, exact: bool = False) -> None:
        """`exact`: scores are made in float64 (see `exactly`)."""
        self.reducer, self.runs, self.exact = reducer, list[Seens](), exact

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reducer, name)

    @property
    def now(self) -> Seens:
        """The forward that is going on: a cut that is not after the last one is a new one's first."""
        return self.runs[-1]

    def start(self) -> None:
        self.runs.append(Seens())

    def prepare(self, prompt: Prompt) -> Any:
        shown = mapped(torch.clone, prompt)
        with exactly() if self.exact else nullcontext():
            memory = self.reducer.prepare(prompt)
        self.now.prompt, self.now.memory = shown, mapped(torch.clone, memory)
        self.now.prompt_changed = changed(shown, prompt)
        return memory

    def score(self, view: View) -> torch.Tensor:
        shown = copied(view)
        with exactly() if self.exact else nullcontext():
            score = self.reducer.score(view)
        self.now.cuts.append(Seen(shown, score, changed(shown, view)))
        return self.accepted(score)

    def choose(self, view: View) -> tuple[torch.Tensor, tuple[Cut, ...]]:
        shown = copied(view)
        score, cuts = self.reducer.choose(view)
        self.now.cuts.append(Seen(shown, score, changed(shown, view)))
        return self.accepted(score), cuts

    def accepted(self, score: torch.Tensor) -> torch.Tensor:
        """The score as the runtime takes it, which wants float32: of another type, so that the other checks go on.

        Scores in float64 become numbers in the same order, so that none are rounded to equal ones.
        """
        if not isinstance(score, torch.Tensor) or score.dtype == torch.float32:
            return score
        if not self.exact or score.ndim != 2:
            return score.float()
        place = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return -place.float()

    def merge(self, view: View, score: torch.Tensor, kept: torch.Tensor, count: int) -> Mixture:
        seen = self.now.cuts[-1]
        score = seen.score if self.exact else score  # which the runtime got as `accepted` made it
        mixture = self.reducer.merge(view, score, kept, count)
        merged = Merged(score.clone(), kept.clone(), count, mixture)
        self.now.cuts[-1] = replace(
            seen,
            view=replace(seen.view, cut=view.cut),
            merged=merged,
            changed=(*seen.changed, *changed(seen.view, view)),
        )
        return mixture


class _InDouble(TorchFunctionMode):
    """In it, what asks for float32 gets float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args = tuple(torch.float64 if one is torch.float32 else one for one in args)
        kwargs = {key: torch.float64 if one is torch.float32 else one for key, one in (kwargs or {}).items()}
        return (torch.Tensor.double if func is torch.Tensor.float else func)(*args, **kwargs)


@contextmanager
def exactly() -> Iterator[None]:
    """A block in which `.float()`, float32 as an argument and new tensors are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _InDouble():
            yield
    finally:
        torch.set_default_dtype(before)


def copied(view: View) -> View:
    """A view that can be shown again after the forward: the next layer's keys are handed over to nobody."""
    return replace(mapped(torch.clone, view), take_keys=None)


def changed(before: Any, after: Any) -> tuple[str, ...]:
    """The fields of a view or prompt whose tensors are no longer what they were."""
    found = []
    for name in vars(before):
        if name == "cut":  # an adaptive method's is another one by the time of a merge
            continue
        one, other = tensors_of(getattr(before, name)), tensors_of(getattr(after, name))
        if len(one) != len(other) or not all(map(torch.equal, one, other)):
            found.append(name)
    return tuple(found)
