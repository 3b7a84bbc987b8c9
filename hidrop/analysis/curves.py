"""Curves over layers with one row per sample, so that every number read off them has an uncertainty.

A curve starts at layer `first` (1-based). NaN: the sample has no value there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

# System: the text before the first visual token.
MODALITIES = ("system", "visual", "text")
DRAWS = 1000
LEVEL = 0.95

Values = NDArray[np.float64]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Curve:
    """`samples` holds the values of each sample in layers `first`, `first` + 1, ...: (samples, layers)."""

    first: int
    samples: Values

    @property
    def layers(self) -> list[int]:
        return list(range(self.first, self.first + self.samples.shape[1]))

    @property
    def mean(self) -> Values:
        return nanmean(self.samples)

    def at(self, layer: int) -> float:
        """The mean in a layer. Raises KeyError outside of the curve."""
        if layer not in self.layers:
            raise KeyError(layer)
        return float(self.mean[layer - self.first])

    def interval(self, draws: Values) -> tuple[Values, Values]:
        """The ends of the middle LEVEL of bootstrapped means, (layers,) each. `draws` come from `drawn`."""
        means = resampled(self.samples, draws)
        low, high = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return low, high


def nanmean(samples: Values) -> Values:
    """Mean over samples, NaN where no sample has a value."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of an empty slice is NaN, as intended
        return np.nanmean(samples, axis=0)


def drawn(samples: int, *, draws: int = DRAWS, seed: int = 0, groups: Iterable[Any] | None = None) -> Values:
    """Bootstrap weights (draws, samples). Each draw sums to the number of samples (approximately, with groups).

    `groups`: the group of each sample, such as its image. Samples of one group are drawn together.
    """
    names = list(range(samples)) if groups is None else list(groups)
    place = {name: number for number, name in enumerate(dict.fromkeys(names))}
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(len(place), np.full(len(place), 1 / len(place)), size=draws).astype(np.float64)
    return weights[:, [place[name] for name in names]]


def resampled(samples: Values, draws: Values) -> Values:
    """Means under each draw's weights, (draws, layers). Samples without a value do not count."""
    there = ~np.isnan(samples)
    total = draws @ np.where(there, samples, 0.0)
    count = draws @ there.astype(np.float64)
    return np.where(count > 0, total / np.maximum(count, 1e-12), np.nan)


@dataclass(frozen=True)
class Curves:
    """Everything measured of a model on a task. Scores and agreement are 0 to 1.

    exits[share]: score when that share of the visual tokens leaves before layer l, l = 1 .. L. `exit_agreement`: for
    these exits, whether the answer is the unreduced model's. `vanilla` (samples,): the unreduced score. `inject`: score
    when the tokens enter before layer l. `ilvas`: by window n. `cross`: cross-modal similarity, without layers if no
    images could be compared. `groups`: the image of each sample.
    """

    layers: int
    visual_tokens: int
    intra: Mapping[str, Curve]
    cross: Curve
    mass: Curve
    ilvas: Mapping[int, Curve]
    exits: Mapping[float, Curve]
    exit_agreement: Mapping[float, Curve]
    inject: Curve | None
    vanilla: Values
    groups: tuple[str, ...]

    @property
    def samples(self) -> int:
        return len(self.vanilla)

    def draws(self, seed: int = 0) -> Values:
        return drawn(self.samples, seed=seed, groups=self.groups)

    def bootstrap(self, read: Callable[[Curves], Found], *, draws: int = 200, seed: int = 0) -> list[Found]:
        """What `read` finds in curves of bootstrapped samples, drawn image by image."""
        return [
            read(self.weighted(weights)) for weights in drawn(self.samples, draws=draws, seed=seed, groups=self.groups)
        ]

    def weighted(self, weights: Values) -> Curves:
        """The curves with each sample repeated by its whole-number weight, (samples,)."""
        index = np.repeat(np.arange(self.samples), weights.astype(int))
        return Curves.made([self], lambda parts: parts[0][index], tuple(self.groups[i] for i in index))

    @classmethod
    def made(cls, parts: Sequence[Curves], change: Callable[[list[Values]], Values], groups: tuple[str, ...]) -> Curves:
        """New curves: `change` makes the samples of each curve from the parts' samples of that curve."""
        first = parts[0]

        def of(curves: Iterable[Curve]) -> Curve:
            given = list(curves)
            return Curve(given[0].first, change([curve.samples for curve in given]))

        return cls(
            layers=first.layers,
            visual_tokens=first.visual_tokens,
            intra={name: of(part.intra[name] for part in parts) for name in first.intra},
            cross=of(part.cross for part in parts),
            mass=of(part.mass for part in parts),
            ilvas={n: of(part.ilvas[n] for part in parts) for n in first.ilvas},
            exits={share: of(part.exits[share] for part in parts) for share in first.exits},
            exit_agreement={share: of(part.exit_agreement[share] for part in parts) for share in first.exit_agreement},
            inject=None if first.inject is None else of(part.inject for part in parts if part.inject is not None),
            vanilla=change([part.vanilla for part in parts]),
            groups=groups,
        )
