"""DivPrune (CVPR 2025, arXiv 2503.02175): the subset of visual tokens whose closest pair is as far apart as possible.

Variant: greedy max-min, as the paper solves it, on the projected features before the decoder. The distance is one
minus the cosine. The first token is the one farthest from its nearest neighbour; each next one is farthest from those
already chosen. It uses neither text nor attention. Ties go to the earlier token. Positions are those of a prompt with
that many visual tokens, because tokens are pruned before the decoder's input is numbered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hidrop.budget import single_cut
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Positions, Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.scoring import View


@dataclass(frozen=True)
class DivPrune(Reducer):
    """Keep `keep` mutually distant visual tokens, chosen before the decoder."""

    keep: int
    positions: Positions | None = None

    name: ClassVar[str] = "divprune"
    counts: ClassVar[tuple[str, ...]] = ("keep",)

    @property
    def released_positions(self) -> Positions:
        return "compacted"

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(0, self.keep),))

    def score(self, view: View) -> torch.Tensor:
        """Earlier choices score higher, because the first k of a larger choice are the choice of k."""
        import torch

        unit = torch.nn.functional.normalize(view.visual_BVD.float(), dim=-1)
        slots = unit.shape[1]
        place = torch.arange(slots, device=unit.device)
        valid = view.valid_BV
        far = 1 - unit @ unit.transpose(1, 2)
        ignored = ~(valid[:, :, None] & valid[:, None, :]) | (place == place[:, None])
        nearest = far.masked_fill(ignored, torch.inf).amin(-1)
        score = torch.zeros_like(nearest)
        left = valid
        for step in range(view.cut.keep):
            open_ = torch.where(left, nearest, -torch.inf)
            best = open_ == open_.amax(1, keepdim=True)
            pick = torch.where(best, place, slots).amin(1, keepdim=True)
            picked = place == pick
            score = torch.where(picked & left, float(slots - step), score)
            left = left & ~picked
            distance = far.gather(1, pick[:, :, None].expand(-1, -1, slots))[:, 0]
            nearest = distance if step == 0 else torch.minimum(nearest, distance)
        return score

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        return cls(**{**params, "keep": single_cut(average, geometry, 0)})
