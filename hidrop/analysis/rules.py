"""How a schedule is read off the curves. Each rule is deterministic, reports its evidence, and knows no model.

- **Injection**: the most prominent local minimum of the visual tokens' intra-modal similarity before the exit. The
  layers before it only pass the visual tokens on; there, text and visual tokens begin to change each other (the onset
  of fusion).
- **Exit**: the first layer from which on all visual tokens may leave with a loss of score, relative to the unreduced
  model, that is within one standard error of the tolerance (the plateau of deep-to-shallow masking).
- **Filters**: the most prominent local maxima of ILVAS between injection and exit, averaged over its windows. These are
  layers whose choice of tokens the later layers agree with.

An extremum must be significant on both sides: against chance (a paired t-test over the samples, corrected for all pairs
of layers) and against the curve (a share of its range). Otherwise the reading is empty and says why. Nothing is
guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hidrop.analysis.curves import LEVEL, Curve, Curves, Values, nanmean

# The chance that noise alone makes any pair of layers differ, and the smallest size of an extremum as a share of the
# curve's range.
ALPHA, LEAST = 0.05, 0.05
# The cost of an exit is known well enough if its upper bound is at most this many times the tolerance.
RESOLUTION = 5
DRAWS = 200
OTHER_TASKS = ("task", "TASK,TASK")


@dataclass(frozen=True)
class Extremum:
    """A local extremum of a curve: its layer, its prominence, and the layers it is compared with on either side."""

    layer: int
    prominence: float
    bases: tuple[int, int]


@dataclass(frozen=True)
class Reading:
    """What a rule found: `layers` (empty if the evidence is insufficient), and why in words.

    range: for each of `layers`, the first and last layer between which the rule's nearest finding is in 95 % of the
    bootstrapped samples. support: the share of them in which it finds exactly `layers`. way: what would decide an empty
    reading, as options of `analyze` with a value ("LAYER" if the user has to choose one).
    """

    layers: tuple[int, ...]
    rule: str
    evidence: str
    range: tuple[tuple[int, int], ...] = ()
    support: float = 0.0
    way: tuple[tuple[str, str], ...] = ()

    @property
    def layer(self) -> int | None:
        return self.layers[0] if self.layers else None


def extrema(curve: Curve, *, lowest: bool, first: int, last: int) -> list[Extremum]:
    """Significant local maxima (minima with `lowest`) of the mean in layers `first` .. `last`, most prominent first.

    Only these layers of the curve count, and their ends are never extrema.
    """
    from scipy.signal import find_peaks

    start, stop = max(first, curve.first) - curve.first, min(last, curve.layers[-1]) - curve.first + 1
    samples = curve.samples[:, start:stop]
    if samples.shape[1] < 3:
        return []
    mean = nanmean(samples) * (-1 if lowest else 1)
    if np.isnan(mean).any():
        return []
    peaks, found = find_peaks(mean, prominence=0, plateau_size=1)
    extent, limit = float(np.ptp(mean)), critical(len(samples), len(mean))
    chosen = []
    for place, prominence, *bases in zip(
        peaks, found["prominences"], found["left_bases"], found["right_bases"], strict=True
    ):
        apart = [t_value(samples[:, place] - samples[:, base]) * (-1 if lowest else 1) for base in bases]
        if prominence >= LEAST * extent and min(apart) > limit:
            left, right = (int(base) + start + curve.first for base in bases)
            chosen.append(Extremum(int(place) + start + curve.first, float(prominence), (left, right)))
    return sorted(chosen, key=lambda one: (-one.prominence, one.layer))


def t_value(apart: Values) -> float:
    """Mean divided by standard error of paired differences. Without any spread: infinite, with the sign of the mean."""
    apart = apart[~np.isnan(apart)]
    if len(apart) < 2:
        return 0.0
    error, mean = float(apart.std(ddof=1)) / len(apart) ** 0.5, float(apart.mean())
    return mean / error if error > 0 else float(np.sign(mean)) * np.inf


def critical(samples: int, layers: int) -> float:
    """The t value that noise exceeds with a chance of ALPHA in any of the pairs of layers (Bonferroni)."""
    from scipy.stats import t

    pairs = max(1, layers * (layers - 1) // 2)
    return float(t.ppf(1 - ALPHA / (2 * pairs), max(1, samples - 1)))


def injection(curves: Curves, exit: int | None) -> Reading:
    """The injection layer, see the module. `exit` None: all layers count."""
    rule = "most prominent local minimum of the visual tokens' intra-modal similarity"
    last = (exit or curves.layers) - 1
    found = extrema(curves.intra["visual"], lowest=True, first=1, last=last)
    if not found:
        why = f"the curve has no minimum in layers 1 to {last} that stands out against chance"
        return Reading((), rule, why, way=(more_samples(curves), ("inject", "LAYER")))
    best, curve = found[0], curves.intra["visual"]
    sides = " and ".join(f"{curve.at(layer):.3f} in layer {layer}" for layer in best.bases)
    evidence = f"similarity {curve.at(best.layer):.3f} in layer {best.layer}, against {sides}"
    if half := fused(curves.cross):
        evidence += f"; half of what the image changes in the instruction is there after layer {half}"
    return Reading((best.layer,), rule, evidence)


def fused(cross: Curve) -> int | None:
    """The layer after which the cross-modal similarity has made half of its largest fall. None if it never falls."""
    fall = 1 - cross.mean
    if not len(fall) or np.isnan(fall).any() or fall.max() <= 0:
        return None
    return cross.first + int(np.argmax(fall >= fall.max() / 2))


def leaving(curves: Curves, tolerance: float) -> Reading:
    """The exit layer, see the module. `tolerance`: of the unreduced score, as a share."""
    most = f"{100 * tolerance:g} % of the unreduced score"
    rule = f"first layer from which on no exit costs more than {most}, within one standard error"
    curve, whole = curves.exits[1.0], float(curves.vanilla.mean())
    lost = curves.vanilla[:, None] - curve.samples  # loss of each sample when its tokens leave before each layer
    if not t_value(lost[:, 0]) > critical(curves.samples, 2):
        why = f"the score without the image ({curve.mean[0]:.3f}) is not below {whole:.3f} by more than chance"
        return Reading((), rule, f"{why}: these samples do not need the image", way=(OTHER_TASKS, more_samples(curves)))
    mean, error = lost.mean(0) / whole, lost.std(0, ddof=1) / len(lost) ** 0.5 / whole
    reach = critical(curves.samples, 2) * error
    needed = [layer for layer, low in zip(curve.layers, mean - error, strict=True) if low > tolerance]
    if needed[-1] == curve.layers[-1]:
        enough = max(float(mean[-1] - error[-1]), float(mean[-1] + reach[-1]) / RESOLUTION)
        way = (("tolerance", f"{100 * enough + 0.05:.1f}"), OTHER_TASKS, ("exit", "LAYER"))  # rounded up
        return Reading((), rule, f"leaving before the last layer still costs {100 * mean[-1]:.1f} %", way=way)
    layer = needed[-1] + 1
    at = layer - curve.first
    before = f"before layer {layer - 1} {100 * mean[at - 1]:.1f} %"
    evidence = f"leaving before layer {layer} costs {_loss(mean, reach, at)}, {before}"
    if mean[at] + reach[at] > RESOLUTION * tolerance:
        more = curves.samples * (reach[at] / ((RESOLUTION - 1) * tolerance)) ** 2
        enough_samples = ("samples", f"{more:.0f}")
        why = f"{evidence}: too uncertain to tell. About {more:.0f} samples would do"
        return Reading((), rule, why, way=(enough_samples, ("exit", "LAYER")))
    return Reading((layer,), rule, evidence)


def more_samples(curves: Curves) -> tuple[str, str]:
    """Four times the samples: half of the standard error."""
    return "samples", str(4 * curves.samples)


def _loss(mean: Values, reach: Values, at: int) -> str:
    return f"{100 * mean[at]:.1f} % ({100 * (mean[at] - reach[at]):.1f} to {100 * (mean[at] + reach[at]):.1f})"


def filtering(curves: Curves, inject: int, exit: int, most: int) -> Reading:
    """The filter layers, at most `most` of them, see the module."""
    curve = combined(curves.ilvas)
    rule = f"most prominent local maxima of ILVAS, mean over windows {', '.join(map(str, curves.ilvas))}"
    last = min(exit - 2, curve.layers[-1])
    found = extrema(curve, lowest=False, first=inject - 1, last=last + 1)
    if not found:
        why = f"ILVAS has no maximum between layers {inject} and {last} that stands out"
        return Reading((), rule, why, way=(more_samples(curves), ("windows", "A,B"), ("filters", "LAYERS")))
    chosen = sorted(one.layer for one in found[:most])
    shown = ", ".join(f"{curve.at(layer):.3f} after layer {layer}" for layer in chosen)
    more = f"; {len(found) - len(chosen)} less prominent ones left out" if len(found) > len(chosen) else ""
    return Reading(tuple(chosen), rule, shown + more)


def combined(ilvas: Mapping[int, Curve]) -> Curve:
    """The mean over the windows, in the layers that all windows have."""
    curves = list(ilvas.values())
    width = min(curve.samples.shape[1] for curve in curves)
    return Curve(curves[0].first, np.mean([curve.samples[:, :width] for curve in curves], axis=0))


def with_uncertainty(curves: Curves, read: Callable[[Curves], Reading]) -> Reading:
    """The reading of the curves, with its range and support in bootstrapped samples."""
    reading = read(curves)
    if not reading.layers:
        return reading
    draws = curves.bootstrap(lambda one: read(one).layers, draws=DRAWS)
    ranges = []
    for layer in reading.layers:
        nearest = [min(found, key=lambda other: abs(other - layer)) for found in draws if found]
        low, high = np.quantile(nearest, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest") if nearest else (0, 0)
        ranges.append((int(low), int(high)))
    same = sum(found == reading.layers for found in draws) / len(draws)
    return replace(reading, range=tuple(ranges), support=same)
