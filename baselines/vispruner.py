"""VisPruner (ICCV 2025, arXiv 2412.01818): important patches by the class token's attention, and diverse ones.

Of the `keep` tokens, int(keep * important) are the patches that the class token attends to most (mean over heads, in
the layer whose output the features are). The others are thinned out until the rest is left: in the order of attention,
they alternate between two groups; up to `step` patches of the first group are dropped, those most similar (cosine, of
the features before the projector) to any patch of the second. What is left of the first group, most similar first, and
then the second group form the order of the next round. Kept patches go through the projector in their own order, and
the class token is dropped.

If the number of patches is odd, the first group has one more; the released code fails there. Ties go to the earlier
one in the order. Features are compared in float32. Towers without a class token: see chosen.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from baselines.chosen import Chosen
from baselines.encoded import LLAVA
from hidrop.geometry import Geometry
from hidrop.plan import Schedule
from hidrop.reducer import Published

if TYPE_CHECKING:
    import torch


def diverse(features_IPD: torch.Tensor, order_IR: torch.Tensor, count: int, step: int) -> torch.Tensor:
    """`count` of the patches `order_IR`, thinned out as described above, (I, count)."""
    import torch

    from hidrop.runtime.scoring import rows

    if count == 0:
        return order_IR[:, :0]
    unit_IPD = torch.nn.functional.normalize(features_IPD.float(), dim=-1)
    left = order_IR
    while (excess := left.shape[1] - count) > 0:
        first, second = left[:, 0::2], left[:, 1::2]
        similar = (rows(unit_IPD, first) @ rows(unit_IPD, second).transpose(1, 2)).amax(-1)
        dropped = min(step, excess, first.shape[1])
        order = similar.argsort(dim=1, descending=True, stable=True)[:, dropped:]
        left = torch.cat([first.gather(1, order), second], dim=1)
    return left


@dataclass(frozen=True)
class VisPruner(Chosen):
    """Keep `keep` patches, the share `important` of them by attention and the others for their diversity.

    `step`: how many patches a round of thinning out drops.
    """

    important: float = 0.5
    step: int = 8

    name: ClassVar[str] = "vispruner"
    paper: ClassVar[str] = "VisPruner, ICCV 2025, https://arxiv.org/abs/2412.01818"
    code: ClassVar[str] = "https://github.com/Theia-4869/VisPruner"
    published: ClassVar[Mapping[str, Published]] = {
        str(keep): Published({"keep": keep, "important": 0.5}, LLAVA) for keep in (192, 128, 64, 32)
    }

    def schedule(self, geometry: Geometry) -> Schedule:
        if not 0 <= self.important <= 1:
            raise ValueError(f"important: {self.important} is not a share of keep; it must be in 0..1")
        if self.step < 1:
            raise ValueError(f"step: {self.step} is too few; at least 1")
        return super().schedule(geometry)

    def selected(self, seen_IP: torch.Tensor, features_IPD: torch.Tensor, keep: int) -> torch.Tensor:
        import torch

        order = seen_IP.argsort(dim=1, descending=True, stable=True)
        important = int(keep * self.important)
        others = diverse(features_IPD, order[:, important:], keep - important, self.step)
        return torch.cat([order[:, :important], others], dim=1).sort(dim=1).values
