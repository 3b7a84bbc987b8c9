"""Tensors in nested dataclasses, tuples, lists and dicts: taken out in a fixed order, and put in again."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def mapped(change: Callable[[torch.Tensor], torch.Tensor], value: T) -> T:
    """`value` with `change` applied to every tensor in it; everything else is kept."""
    made: Any = value
    if isinstance(value, torch.Tensor):
        made = change(value)
    elif isinstance(value, (tuple, list)):
        made = type(value)(mapped(change, one) for one in value)
    elif isinstance(value, dict):
        made = {key: mapped(change, one) for key, one in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        made = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(made, field.name, mapped(change, getattr(value, field.name)))
    return made


def tensors_of(value: Any) -> list[torch.Tensor]:
    """The tensors in `value`, in the order in which `mapped` meets them."""
    found: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    mapped(keep, value)
    return found


def with_tensors(value: T, tensors: Iterator[torch.Tensor]) -> T:
    """`value` with its tensors replaced by the next ones of `tensors`, in the order of `tensors_of`."""
    return mapped(lambda _: next(tensors), value)
