"""Average pooling before the decoder: fewer, coarser visual tokens instead of a choice among them.

Each image is divided into `keep` cells. The mean of the projected features in a cell is one token. It takes the place
of the token in the middle of its cell. Positions are those of a prompt with that many visual tokens; where a position
is several numbers (M-RoPE), each token has the position of its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hidrop.budget import single_cut
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Mixture, Positions, Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.scoring import Prompt, View


@dataclass(frozen=True)
class Pool(Reducer):
    """Replace an image's visual tokens by `keep` means over parts of it."""

    keep: int
    positions: Positions | None = None

    name: ClassVar[str] = "pool"
    null_baseline: ClassVar[bool] = True
    counts: ClassVar[tuple[str, ...]] = ("keep",)
    gridded: ClassVar[bool] = True

    @property
    def released_positions(self) -> Positions:
        return "compacted"

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(0, 0, merge=self.keep),))

    def prepare(self, prompt: Prompt) -> Prompt:
        return prompt  # says which image each token belongs to

    def score(self, view: View) -> torch.Tensor:
        return view.valid_BV.float()

    def merge(self, view: View, score: torch.Tensor, kept: torch.Tensor, count: int) -> Mixture:
        import torch

        from baselines.grid import cells

        cell, centre = cells(view.memory, view.cut.merge_B)
        number = torch.arange(count, device=cell.device)
        inside = (cell[:, :, None] == number) & view.valid_BV[:, :, None]
        member = inside.to(view.hidden_BND.dtype)
        at = (inside.long() + (inside & centre[:, :, None])).argmax(1)
        return Mixture(member.transpose(1, 2), member.sum(1).clamp(min=1), at_BM=at)

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        return cls(**{**params, "keep": single_cut(average, geometry, 0)})
