"""DivPrune (CVPR 2025, arXiv 2503.02175): the subset of visual tokens whose closest pair is as far apart as possible.

Variant: greedy max-min, as the paper solves it, on the projected features before the decoder. The distance is one
minus the cosine. The first token is the one farthest from its nearest neighbour; each next one is farthest from those
already chosen. It uses neither text nor attention. Ties go to the earlier token. Positions are those of a prompt with
that many visual tokens, because tokens are pruned before the decoder's input is numbered.

Shapes: B batch, V visual slots, D size of a token, R rows of a block, K choices.
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


# Up to as many slots, the distances of all pairs are kept: 64 MiB a prompt.
WHOLE_SLOTS = 4096
# Rows of a block of distances.
BLOCK = 256


class Distances:
    """One minus the cosine, of any two of these tokens (B, V, D) in float32.

    One pass computes the distances from each block of tokens to itself and to later tokens: about half of the pairs of
    one large product, whose other half is the same. Up to WHOLE_SLOTS slots all of them are kept. With more slots,
    those to a chosen token are computed a second time when it is chosen: another order of summation, so the last bits
    may differ.
    """

    def __init__(self, tokens_BVD: torch.Tensor, valid_BV: torch.Tensor) -> None:
        """`nearest_BV`: from each token to the nearest other valid one; infinite if there is none."""
        import torch

        self.unit_BVD = torch.nn.functional.normalize(tokens_BVD.float(), dim=-1)
        batch, slots = valid_BV.shape
        self.offset_B = torch.arange(batch, device=valid_BV.device) * slots
        self.all_BVV = self.unit_BVD.new_empty(batch, slots, slots) if slots <= WHOLE_SLOTS else None
        self.nearest_BV = self.unit_BVD.new_full((batch, slots), torch.inf)
        apart_BV = self.nearest_BV.masked_fill(valid_BV, 0)  # what is added to the distance of a token
        for start in range(0, slots, BLOCK):
            rows, later = slice(start, start + BLOCK), slice(start + BLOCK, None)
            block = 1 - self.unit_BVD[:, rows] @ self.unit_BVD[:, start:].transpose(1, 2)
            if self.all_BVV is not None:
                self.all_BVV[:, rows, start:] = block
                self.all_BVV[:, later, rows] = block[:, :, BLOCK:].transpose(1, 2)
            block.diagonal(dim1=1, dim2=2).fill_(torch.inf)
            self._nearer(rows, (block + apart_BV[:, None, start:]).amin(2))
            self._nearer(later, (block[:, :, BLOCK:] + apart_BV[:, rows, None]).amin(1))
        if self.all_BVV is not None:
            self.all_BVV.diagonal(dim1=1, dim2=2).fill_(-torch.inf)

    def _nearer(self, slots: slice, distance: torch.Tensor) -> None:
        import torch

        self.nearest_BV[:, slots] = torch.minimum(self.nearest_BV[:, slots], distance)

    def of(self, pick_B: torch.Tensor) -> torch.Tensor:
        """From one token of each row to all, (B, V); -inf to itself."""
        import torch

        source = self.unit_BVD if self.all_BVV is None else self.all_BVV
        picked = source.flatten(0, 1).index_select(0, self.offset_B + pick_B)
        if self.all_BVV is not None:
            return picked
        distance = 1 - (picked[:, None] @ self.unit_BVD.transpose(1, 2))[:, 0]
        return distance.scatter(1, pick_B[:, None], -torch.inf)


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

        valid = view.valid_BV
        batch, slots = valid.shape
        far = Distances(view.visual_BVD, valid)
        closed = far.nearest_BV.new_full((batch, slots), torch.inf).masked_fill(~valid, -torch.inf)
        nearest, picks = torch.minimum(far.nearest_BV, closed), list[torch.Tensor]()
        for step in range(view.cut.keep):
            pick = nearest.argmax(1)  # of equal ones the first
            picks.append(pick[:, None])
            # A chosen token stays at -inf from then on. A choice takes four small operations: with many choices, their
            # launches are what a GPU waits for.
            nearest = torch.minimum(nearest if step else closed, far.of(pick))
        index_BK = torch.cat([valid[:, :0].long(), *picks], 1)
        step_K = torch.arange(index_BK.shape[1], device=valid.device)
        index_BK = torch.where(step_K < valid.sum(1, keepdim=True), index_BK, slots)  # a row may have fewer tokens
        rank_BK = (slots - step_K).float().expand_as(index_BK)
        return rank_BK.new_zeros(batch, slots + 1).scatter(1, index_BK, rank_BK)[:, :slots]

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        return cls(**{**params, "keep": single_cut(average, geometry, 0)})
