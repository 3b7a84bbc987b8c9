"""FasterVLM (arXiv 2412.01818v1): the patches that the vision tower's class token attends to most.

The attention is that of the layer whose output the features are, averaged over heads. The `keep` best patches go
through the projector in their own order; the class token is dropped, nothing is merged, and the text plays no part.
Ties go to the earlier patch. Towers without a class token: see chosen.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from baselines.chosen import Chosen
from baselines.encoded import LLAVA
from hidrop.reducer import Published

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class FasterVLM(Chosen):
    """Keep the `keep` patches with the most attention."""

    name: ClassVar[str] = "fastervlm"
    paper: ClassVar[str] = "FasterVLM, arXiv 2024, https://arxiv.org/abs/2412.01818v1"
    code: ClassVar[str] = "https://github.com/Theia-4869/FasterVLM"
    # 25, 50, 75, 90 and 95 % of 576 pruned.
    published: ClassVar[Mapping[str, Published]] = {
        str(keep): Published({"keep": keep}, LLAVA) for keep in (432, 288, 144, 58, 29)
    }

    def selected(self, seen_IP: torch.Tensor, features_IPD: torch.Tensor, keep: int) -> torch.Tensor:
        return seen_IP.argsort(dim=1, descending=True, stable=True)[:, :keep].sort(dim=1).values
