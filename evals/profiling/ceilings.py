"""A device's peak bandwidth and matmul rate, measured now, and the time a prefill takes at these limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from evals.profiling.clock import Clock
from hidrop.geometry import Geometry

# Sizes at which a copy and a product of square matrices exceed all caches, and take a fraction of a second.
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
MATRIX = {"cpu": 2048, "cuda": 8192}
SECONDS, LEAST = 1.0, 5


@dataclass(frozen=True)
class Ceilings:
    """Bytes per second of a large copy (read plus written bytes), and operations per second of a large matmul."""

    bytes_per_second: float
    flops_per_second: float

    @property
    def ridge(self) -> float:
        """Operations per byte above which arithmetic, not memory, is the limit."""
        return self.flops_per_second / self.bytes_per_second

    def milliseconds(self, flops: float, moved: float) -> float:
        """The shortest time for this many operations and bytes: the longer of the two."""
        return 1000 * max(flops / self.flops_per_second, moved / self.bytes_per_second)


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Both ceilings of `device`, the matmul in `dtype`: the best of about a second of runs each."""
    size = MATRIX[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source, target = (torch.ones(COPY_BYTES[device.type] // 4, device=device) for _ in range(2))
    copied = 2 * source.nbytes / _best(device, lambda: target.copy_(source))
    return Ceilings(copied, 2 * size**3 / _best(device, lambda: a @ b))


def _best(device: torch.device, run: Callable[[], object]) -> float:
    """Seconds of the fastest run."""
    clock, end = Clock(device), 0.0
    found: list[float] = []
    run()
    while len(found) < LEAST or time.monotonic() < end:
        end = end or time.monotonic() + SECONDS
        marks = [clock.start()]
        run()
        marks.append(clock.mark())
        found += clock.between(marks)
    return min(found) / 1000


@dataclass(frozen=True)
class Parts:
    """The shortest time of a prefill or of a decoded token, in milliseconds, by what it is spent on.

    weights: reading the weights. cache: moving keys and values. matmul: operations of projections and MLPs.
    attention: operations between queries, keys and values.
    """

    weights: float = 0.0
    cache: float = 0.0
    matmul: float = 0.0
    attention: float = 0.0

    @property
    def total(self) -> float:
        return self.weights + self.cache + self.matmul + self.attention

    def __add__(self, other: Parts) -> Parts:
        return Parts(
            self.weights + other.weights,
            self.cache + other.cache,
            self.matmul + other.matmul,
            self.attention + other.attention,
        )


def prefill_parts(
    entering: tuple[int, ...], geometry: Geometry, ceilings: Ceilings, batch: int, text: int, element_bytes: int
) -> Parts:
    """The shortest prefill. Each layer takes its operations, or reading its weights and moving its KV.

    Includes the LM head for one token. Leaves out activations, the choice of tokens and the embedding.
    """
    flops = [geometry.layer_flops(visual + text) for visual in entering]
    linear = [2 * (visual + text) * geometry.layer_weights for visual in entering]
    return _parts(flops, linear, entering, geometry, ceilings, batch, text, element_bytes)


def decode_parts(
    entering: tuple[int, ...], geometry: Geometry, ceilings: Ceilings, batch: int, text: int, element_bytes: int
) -> Parts:
    """The shortest time of one decoded token for each of `batch` rows, after such a prefill."""
    flops = [geometry.layer_flops(visual + text + 1) - geometry.layer_flops(visual + text) for visual in entering]
    linear = [2 * geometry.layer_weights] * len(entering)
    return _parts(flops, linear, entering, geometry, ceilings, batch, text, element_bytes)


def physical_ms(
    entering: tuple[int, ...], geometry: Geometry, ceilings: Ceilings, batch: int, text: int, element_bytes: int
) -> float:
    """The shortest prefill in milliseconds, see `prefill_parts`."""
    return prefill_parts(entering, geometry, ceilings, batch, text, element_bytes).total


def decode_ms(
    entering: tuple[int, ...], geometry: Geometry, ceilings: Ceilings, batch: int, text: int, element_bytes: int
) -> float:
    """The shortest time of one decoded token in milliseconds, see `decode_parts`."""
    return decode_parts(entering, geometry, ceilings, batch, text, element_bytes).total


def _parts(
    flops: list[int],
    linear: list[int],
    entering: tuple[int, ...],
    geometry: Geometry,
    ceilings: Ceilings,
    batch: int,
    text: int,
    element_bytes: int,
) -> Parts:
    """The layers, each with its operations per row (`linear` of them outside of attention), and the LM head."""
    weights, head = element_bytes * geometry.layer_weights, geometry.hidden * geometry.vocab
    total = _bounded(ceilings, 2 * batch * head, 0, element_bytes * head, 0)
    for all_flops, outside, visual in zip(flops, linear, entering, strict=True):
        cache = batch * geometry.layer_kv_bytes(visual + text, element_bytes)
        total += _bounded(ceilings, batch * outside, batch * (all_flops - outside), weights, cache)
    return total


def _bounded(ceilings: Ceilings, matmul: int, attention: int, weights: int, cache: int) -> Parts:
    """The time of some operations and bytes. Billed to the operations or to the bytes, whichever take longer."""
    time, flops, moved = ceilings.milliseconds(matmul + attention, weights + cache), matmul + attention, weights + cache
    if flops / ceilings.flops_per_second >= moved / ceilings.bytes_per_second:
        return Parts(matmul=time * matmul / flops, attention=time * attention / flops)
    return Parts(weights=time * weights / moved, cache=time * cache / moved)
