"""Takes the vision side out of a timing: features of the prompt's images are made once and given to each forward."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from hidrop.backbones import Vision
from hidrop.reducer import Reducer


@dataclass
class RecordedFeatures:
    """The features that a method makes of one prompt's images: computed on the first call, and returned ever after.

    Given to `reduce` as `features`: a reduced forward then runs only the decoder and the LM head.
    """

    features: list[torch.Tensor] = field(default_factory=list)

    def encode(self, reducer: Reducer, vision: Vision) -> list[torch.Tensor]:
        self.features = self.features or reducer.encode(vision)
        return self.features


def recorded_answer(model: Any, forward: Callable[[], Any]) -> Any:
    """What transformers' own `get_image_features` returns during `forward()`. Raises ValueError if it is not called."""
    answers: list[Any] = []
    inner, own = model.base_model, model.base_model.get_image_features

    def keep(*args: Any, **kwargs: Any) -> Any:
        answers.append(own(*args, **kwargs))
        return copy.copy(answers[-1])  # some models change what they have returned

    with _replaced(inner, keep):
        forward()
    if len(answers) != 1:
        raise ValueError(f"{type(inner).__name__} made its images' features {len(answers)} times in one forward")
    return answers[0]


@contextmanager
def replayed_answer(model: Any, answer: Any) -> Iterator[None]:
    """Inside the block transformers' own forward gets `answer` for its images, and computes nothing of them."""
    with _replaced(model.base_model, lambda *args, **kwargs: copy.copy(answer)):
        yield


@contextmanager
def _replaced(inner: Any, get_image_features: Callable[..., Any]) -> Iterator[None]:
    """The method of this one instance, put back on leaving."""
    inner.__dict__["get_image_features"] = get_image_features
    try:
        yield
    finally:
        del inner.__dict__["get_image_features"]
