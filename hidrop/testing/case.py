"""A method on the tiny model of one family: how the properties run it, and what they compare."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from hidrop.backbones import Backbone, backbone_of
from hidrop.geometry import Geometry
from hidrop.reducer import Reducer
from hidrop.runtime import Reduction, reduce
from hidrop.testing.report import Fault
from hidrop.testing.tiny.inputs import FAMILIES, Size, batch_of
from hidrop.testing.tiny.llava import make_llava
from hidrop.testing.watched import Seens, Watched

TOKENS = 16  # visual tokens of the image that counts are of
Inputs = dict[str, torch.Tensor]


def model_of(family: str) -> Any:
    """A model of its own: a method that changes it spoils no other check."""
    return make_llava(kv_heads=2) if family == "llava" else FAMILIES[family].make()


@dataclass(frozen=True)
class Run:
    """One forward: logits of each row's last token (B, vocab), the tokens that each cut kept, counts, and the calls."""

    logits: torch.Tensor
    kept: tuple[tuple[tuple[int, ...], ...], ...]  # of each cut, of each row
    after: tuple[int, ...]  # the layers of the cuts
    entering: tuple[tuple[int, ...], ...]  # of each row
    output: Any
    seen: Seens

    def of_row(self, row: int) -> list[tuple[int, ...]]:
        return [cut[row] for cut in self.kept]


@dataclass
class Case:
    """A method on a family. `images`: sizes of images that the family's processor takes, two or more."""

    method: Reducer
    family: str
    model: Any
    fields_before: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.fields_before = dict(vars(self.method))
        self.first_schedule = self.method.schedule(self.geometry)

    @property
    def images(self) -> list[Size]:
        return list(FAMILIES[self.family].sizes)

    @cached_property
    def backbone(self) -> Backbone:
        return backbone_of(self.model)

    @property
    def reference(self) -> int | None:
        """Visual tokens of the image that counts are of, where each has its own number."""
        return TOKENS if self.backbone.geometry.dynamic else None

    @property
    def geometry(self) -> Geometry:
        return self.backbone.geometry.counted(self.reference)

    @property
    def rows(self) -> list[list[Size]]:
        """A batch: a row with one image, one with two, one with none."""
        return [self.images[:1], self.images[:2], []]

    def batch(self, rows: Sequence[Sequence[Size]], side: str = "left", seed: int = 0) -> Inputs:
        """Inputs of prompts with images of these sizes. Seeds that differ by 10 give prompts of the same shape."""
        return batch_of(self.family, rows, side, seed=seed)

    @contextmanager
    def reduced(self, model: Any = None, *, exact: bool = False) -> Iterator[tuple[Reduction, Watched]]:
        """The model reduced by the method, which is watched. On leaving the block the counts are compared."""
        with reduce(self.model if model is None else model, self.method, reference_tokens=self.reference) as reduction:
            watched: Any = Watched(reduction.reducer, exact=exact)
            reduction.forward_pass.reducer = reduction.decoder.reducer = watched
            yield reduction, watched

    def run(self, inputs: Inputs, model: Any = None, *, exact: bool = False, **more: Any) -> Run:
        """One forward without gradients: the last token's logits, unless `more` asks otherwise (`exact`: Watched)."""
        given: dict[str, Any] = {"logits_to_keep": 1, **inputs, **more}
        with self.reduced(model, exact=exact) as (reduction, watched), torch.no_grad():
            watched.start()
            output = reduction.model(**given)
            kept = reduction.kept
            return Run(
                output.logits[:, -1],
                tuple(one.rows for one in kept),
                tuple(one.after for one in kept),
                reduction.trace.rows,
                output,
                watched.now,
            )

    @cached_property
    def seen(self) -> list[Seens]:
        """The calls in a batch padded at the left, and in one prompt alone."""
        return [self.run(self.batch(self.rows)).seen, self.run(self.batch(self.rows[1:2], seed=1)).seen]

    @cached_property
    def seen_other(self) -> list[Seens]:
        """The same for other prompts of these shapes."""
        return [self.run(self.batch(self.rows, seed=10)).seen, self.run(self.batch(self.rows[1:2], seed=11)).seen]

    def planned(self, inputs: Inputs) -> tuple[int, ...]:
        """Visual tokens in each layer for one prompt: its images together, or each if the tower chooses."""
        vision = self.backbone.vision(inputs)
        sizes = [] if vision is None else vision.tokens
        plans = [
            self.method.plan(self.geometry, size).entering for size in (sizes if self.method.encodes else [sum(sizes)])
        ]
        return tuple(map(sum, zip(*plans, strict=True))) if plans else (0,) * self.geometry.layers

    @cached_property
    def precise(self) -> Any:
        """The model with its decoder in float64; the tower stays, so that both see the same features."""
        model = copy.deepcopy(self.model)
        backbone = backbone_of(model)
        backbone.decoder.double()
        backbone.head.double()
        return model

    @cached_property
    def half(self) -> Any:
        """The whole model in bfloat16."""
        return copy.deepcopy(self.model).bfloat16()


def compare(got: torch.Tensor, wanted: torch.Tensor, what: str, *, atol: float = 5e-5, rtol: float = 1e-4) -> None:
    """Raises Fault for numbers that differ by more than rounding."""
    if got.shape != wanted.shape:
        raise Fault(f"{what}: {tuple(got.shape)} numbers instead of {tuple(wanted.shape)}")
    apart = (got.double() - wanted.double()).abs()
    if not bool((apart <= atol + rtol * wanted.double().abs()).all()):
        raise Fault(f"{what}: differ by up to {apart.max().item():.2g}")


def same_kept(got: list[tuple[int, ...]], wanted: list[tuple[int, ...]], after: Sequence[int], what: str) -> None:
    """Raises Fault for another choice at a cut. `what` has two places for the tokens."""
    for layer, one, other in zip(after, got, wanted, strict=True):
        if one != other:
            raise Fault(f"after layer {layer}, {what.format(list(one), list(other))}")
