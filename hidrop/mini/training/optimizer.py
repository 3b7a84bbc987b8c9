"""Optimiser of the embedded models: orthogonalised momentum (Muon) for the blocks' matrices, AdamW for the rest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn


class Muon(torch.optim.Optimizer):
    """Momentum whose update is the nearest semi-orthogonal matrix (Jordan et al. 2024), for 2-D parameters.

    torch has one too, but it iterates in bfloat16, one matrix at a time. On a CPU without bfloat16 units that took
    longer than the forward and backward pass together. This one iterates in float32 on stacks of equal shapes.
    Updates are scaled to AdamW's usual size (0.2 root mean square), so both use one learning rate.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                directions = []
                for parameter in parameters:
                    assert parameter.grad is not None
                    buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    buffer.lerp_(parameter.grad, 1 - group["momentum"])
                    directions.append(parameter.grad.lerp(buffer, group["momentum"]))
                updates = orthogonalise(torch.stack(directions))
                scale = 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["decay"])
                    parameter.add_(update, alpha=-group["lr"] * scale)


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Matrices with the same row and column spaces and singular values near 1, (stack, rows, columns).

    Quintic Newton-Schulz iteration with the coefficients of the Muon write-up.
    """
    flip = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if flip else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if flip else x


class Pair:
    """Muon and AdamW, stepped together.

    `rates` scales the peak learning rate of parameters, by a part of their name. Parameters with a rate of 0 are left
    out and should not require a gradient. Both optimisers normalise, so parameters with almost no gradient still move
    at full speed in random directions. A rate slows them down.
    """

    def __init__(
        self, named: Iterable[tuple[str, nn.Parameter]], lr: float, rates: Mapping[str, float] | None = None
    ) -> None:
        groups: dict[tuple[bool, float], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in named:
            rate = next((rate for part, rate in (rates or {}).items() if part in name), 1.0)
            if rate:
                groups[parameter.ndim == 2 and "layers." in name, lr * rate].append(parameter)
        self.parts: list[torch.optim.Optimizer] = [
            Muon(parameters, lr=peak)
            if inside
            else torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.98), weight_decay=0.0)
            for (inside, peak), parameters in groups.items()
        ]
        self._peaks = [peak for _, peak in groups]

    def step(self, scale: float) -> None:
        """Make one update at `scale` times the peak learning rates, then clear the gradients."""
        for part, peak in zip(self.parts, self._peaks, strict=True):
            for group in part.param_groups:
                group["lr"] = peak * scale
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def warm_then_decay(step: int, total: int, warm: float = 0.03, final: float = 0.02, decay_from: float = 0.5) -> float:
    """Linear warm-up, a plateau, then a linear decay to `final` that starts at the share `decay_from` of all steps."""
    done = (step + 1) / total
    if done < warm:
        return done / warm
    if done < decay_from:
        return 1.0
    return final + (1.0 - final) * (1.0 - done) / max(1e-9, 1.0 - decay_from)
