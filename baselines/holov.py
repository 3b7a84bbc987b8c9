"""HoloV (NeurIPS 2025, arXiv 2510.02912): every part of the image keeps tokens, as many as its score says.

Projected patches are divided into `crops` runs of the raster, equally long (the first ones have one more if needed). A
patch's score is A + alpha mean(A) / mean(v) v, where A is 1000 times the class token's attention and v the variance of
its cosines to the patches of its crop. A crop's share w of `keep` is its mean score over the sum of them: it gets
floor(keep w) tokens, and the crops with the largest w one each of those that are left over. What is more than a crop
has goes on to the other crops, largest w first, each until it is full (the released code adds vectors of zeros).

`pick: attention`, the released code, takes a crop's patches with the most attention, so that scores decide its share
only. `pick: score`, the paper's description, takes those with the best score. The sequence is in the code's order: crop
by crop, best patch first; a crop that stays whole keeps its order. Ties go to the earlier patch. Towers without a class
token (chosen.py) leave tokens at their places.

Shapes: I images, P patches, C crops, M patches of the largest crop, K kept. crops.py has scores and quotas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from baselines.chosen import Chosen
from baselines.encoded import LLAVA
from hidrop.geometry import Geometry
from hidrop.plan import Schedule
from hidrop.reducer import Published

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class HoloV(Chosen):
    """Keep `keep` patches, divided among `crops` runs of the raster."""

    crops: int = 16
    alpha: float = 0.09
    pick: Literal["attention", "score"] = "attention"

    name: ClassVar[str] = "holov"
    paper: ClassVar[str] = "HoloV, NeurIPS 2025, https://arxiv.org/abs/2510.02912"
    code: ClassVar[str] = "https://github.com/obananas/HoloV"
    # The released code has these numbers as constants, and no others.
    published: ClassVar[Mapping[str, Published]] = {"64": Published({"keep": 64, "crops": 16, "alpha": 0.09}, LLAVA)}
    projected: ClassVar[bool] = True

    def schedule(self, geometry: Geometry) -> Schedule:
        if self.crops < 1:
            raise ValueError(f"crops: {self.crops} is too few; at least 1")
        return super().schedule(geometry)

    def selected(self, seen_IP: torch.Tensor, features_IPD: torch.Tensor, keep: int) -> torch.Tensor:
        import torch

        from baselines.crops import ATTENTION_SCALE, quotas, scores

        patches, crops = seen_IP.shape[1], min(self.crops, seen_IP.shape[1])
        least, longer = divmod(patches, crops)
        number = torch.arange(crops, device=seen_IP.device)
        within = torch.arange(least + (longer > 0), device=seen_IP.device)
        size_C = least + (number < longer).long()
        valid_CM = within < size_C[:, None]
        index_CM = ((number * least + number.clamp(max=longer))[:, None] + within).clamp(max=patches - 1)
        seen_ICM = torch.where(valid_CM, ATTENTION_SCALE * seen_IP[:, index_CM], 0)
        score_ICM = scores(seen_ICM, features_IPD[:, index_CM].float(), valid_CM, size_C, self.alpha)
        quota_IC = quotas(score_ICM.sum(-1) / size_C, size_C, keep)
        best_ICM = (seen_ICM if self.pick == "attention" else score_ICM).masked_fill(~valid_CM, -torch.inf)
        rank_ICM = best_ICM.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        rank_ICM = torch.where((quota_IC < size_C)[..., None], rank_ICM, within)  # a whole crop keeps its order
        kept_ICM = (rank_ICM < quota_IC[..., None]) & valid_CM
        place_ICM = torch.where(kept_ICM, number[:, None] * len(within) + rank_ICM, patches + crops * len(within))
        order_IK = place_ICM.flatten(1).argsort(dim=1, stable=True)[:, :keep]
        return index_CM.flatten()[order_IK]
