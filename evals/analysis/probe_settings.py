"""The settings of the probes, and their cost."""

from __future__ import annotations

from dataclasses import dataclass

from hidrop.geometry import Geometry

SIZES = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1.0, "FLOP"))


@dataclass(frozen=True)
class ProbeSettings:
    """The settings of the probes.

    top: share of the visual tokens that counts as most attended. windows: the n of ILVAS.
    shares: shares of the visual tokens that leave before each layer. inject: whether to probe late injection.
    """

    top: float = 1 / 9
    windows: tuple[int, ...] = (4, 8)
    shares: tuple[float, ...] = (1.0, 0.9, 0.5)
    inject: bool = True


def flops_of_sample(geometry: Geometry, probes: ProbeSettings, text: int) -> tuple[int, int]:
    """Operations of one sample's probes, and of its prefill through the unreduced model.

    This counts all runs of the prompt through the decoder: the walk, its branches, and two runs that compare images. It
    does not count the vision tower, the LM head and the answers' tokens.
    """
    whole, layers = geometry.visual_tokens, geometry.layers

    def through(tokens: int, count: int) -> int:
        return count * geometry.layer_flops(tokens + text)

    prefill = through(whole, layers)
    leaving = sum(
        through(whole - round(share * whole), layers - layer + 1)
        for share in probes.shares
        for layer in range(1, layers + 1)
    )
    entering = through(0, layers) + sum(through(whole, layers - layer + 1) for layer in range(1, layers + 1))
    return 3 * prefill + leaving + (entering if probes.inject else 0), prefill


def cost(geometry: Geometry, probes: ProbeSettings, text: int, samples: int) -> str:
    """The cost of the probes, as one sentence."""
    each, prefill = flops_of_sample(geometry, probes, text)
    total = each * samples
    size, unit = next((size, unit) for size, unit in SIZES if total >= size)
    branches = len(probes.shares) * geometry.layers + (geometry.layers if probes.inject else 0) + 1
    return (
        f"{samples} samples: about {total / size:.3g} {unit}, {each / prefill:.1f} prefills of the unreduced model and "
        f"{branches} short answers per sample (--no-inject-sweep and fewer --shares reduce this)"
    )
