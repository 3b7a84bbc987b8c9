"""What an analysis measures, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

from hidrop.geometry import Geometry

SIZES = ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1.0, "FLOP"))


@dataclass(frozen=True)
class ProbeSettings:
    """What is measured. `top`: share of the visual tokens that counts as most attended; `windows`: n of ILVAS;
    `shares`: of the visual tokens that leave at each layer; `inject`: whether late injection is tried at each layer."""

    top: float = 1 / 9
    windows: tuple[int, ...] = (4, 8)
    shares: tuple[float, ...] = (1.0, 0.9, 0.5)
    inject: bool = True


def flops_of_sample(geometry: Geometry, probes: ProbeSettings, text: int) -> tuple[int, int]:
    """Operations of one sample's probes, and of its prefill through the unreduced model alone.

    Counted are all runs of the prompt through the decoder: the walk, its branches and the two that compare images;
    left out are tower, LM head and the answers' tokens.
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
    """What the probes will cost, in words."""
    each, prefill = flops_of_sample(geometry, probes, text)
    total = each * samples
    size, unit = next((size, unit) for size, unit in SIZES if total >= size)
    branches = len(probes.shares) * geometry.layers + (geometry.layers if probes.inject else 0) + 1
    return (
        f"{samples} samples: about {total / size:.3g} {unit}, {each / prefill:.1f} prefills of the unreduced model and "
        f"{branches} short answers each (less with --no-inject-sweep and fewer --shares)"
    )
