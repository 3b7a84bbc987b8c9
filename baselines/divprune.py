"""DivPrune (CVPR 2025, arXiv 2503.02175): the subset of visual tokens whose closest pair is as far apart as possible.

Variant: greedy max-min, as the paper solves it, on the projected features before the decoder. The distance is one
minus the cosine. The first token is the one farthest from its nearest neighbour; each next one is farthest from those
already chosen. It uses neither text nor attention. Ties go to the earlier token. Positions are those of a prompt with
that many visual tokens, because tokens are pruned before the decoder's input is numbered.

Distances of all pairs are computed once for up to `WHOLE_SLOTS` tokens (64 MiB a prompt). Of more tokens they are made
in blocks of as many numbers, and those to a chosen token again when it is chosen: another order of summation, so the
last bits may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hidrop.budget import single_cut
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Positions, Published, Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.scoring import View


WHOLE_SLOTS = 4096


class Distances:
    """One minus the cosine, of any two of these tokens (B, V, D) in float32."""

    def __init__(self, tokens_BVD: torch.Tensor) -> None:
        import torch

        self.unit = torch.nn.functional.normalize(tokens_BVD.float(), dim=-1)
        self.slots = self.unit.shape[1]
        self.all = self._from(self.unit) if self.slots <= WHOLE_SLOTS else None

    def _from(self, unit_BRD: torch.Tensor) -> torch.Tensor:
        return 1 - unit_BRD @ self.unit.transpose(1, 2)

    def of(self, index_BR: torch.Tensor) -> torch.Tensor:
        """From some of the tokens to all, (B, R, V)."""
        source = self.unit if self.all is None else self.all
        picked = source.gather(1, index_BR[:, :, None].expand(-1, -1, source.shape[2]))
        return picked if self.all is not None else self._from(picked)

    def to_nearest(self, valid_BV: torch.Tensor) -> torch.Tensor:
        """From each token to the nearest other one, (B, V); infinite for a token that is not valid."""
        import torch

        place = torch.arange(self.slots, device=valid_BV.device)
        size = self.slots if self.all is not None else max(1, WHOLE_SLOTS**2 // self.slots)
        found = []
        for rows in place.split(size):
            far = self._from(self.unit[:, rows]) if self.all is None else self.all
            ignored = ~(valid_BV[:, rows, None] & valid_BV[:, None, :]) | (place == rows[:, None])
            found.append(far.masked_fill(ignored, torch.inf).amin(-1))
        return torch.cat(found, 1)


@dataclass(frozen=True)
class DivPrune(Reducer):
    """Keep `keep` mutually distant visual tokens, chosen before the decoder."""

    keep: int
    positions: Positions | None = None

    name: ClassVar[str] = "divprune"
    counts: ClassVar[tuple[str, ...]] = ("keep",)
    paper: ClassVar[str] = (
        "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models, CVPR 2025, "
        "https://arxiv.org/abs/2503.02175"
    )
    code: ClassVar[str] = "https://github.com/vbdi/divprune"
    # The authors name settings by operations. These are the rows that CDPruner's Table 1 has of the method.
    published: ClassVar[Mapping[str, Published]] = {str(keep): Published({"keep": keep}) for keep in (128, 64, 32)}

    @property
    def released_positions(self) -> Positions:
        return "compacted"

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(0, self.keep),))

    def score(self, view: View) -> torch.Tensor:
        """Earlier choices score higher, because the first k of a larger choice are the choice of k."""
        import torch

        far = Distances(view.visual_BVD)
        valid = view.valid_BV
        slots = valid.shape[1]
        place = torch.arange(slots, device=valid.device)
        nearest = far.to_nearest(valid)
        score = torch.zeros_like(nearest, dtype=torch.float32)  # autocast makes distances of another type
        left = valid
        for step in range(view.cut.keep):
            open_ = torch.where(left, nearest, -torch.inf)
            best = open_ == open_.amax(1, keepdim=True)
            pick = torch.where(best, place, slots).amin(1, keepdim=True)
            picked = place == pick
            score = torch.where(picked & left, float(slots - step), score)
            left = left & ~picked
            distance = far.of(pick)[:, 0]
            nearest = distance if step == 0 else torch.minimum(nearest, distance)
        return score

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        return cls(**{**params, "keep": single_cut(average, geometry, 0)})
