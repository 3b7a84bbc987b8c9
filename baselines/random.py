"""A uniformly random subset: the null hypothesis of this field.

The subset depends on the seed and on the sample (question, pixels and the image's shape in patches), not on the batch,
the padding or the run.
Tokens are ranked by an integer hash, so no random state is needed and the device does not wait. Positions are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hidrop.budget import single_cut
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.scoring import Prompt, View


@dataclass(frozen=True)
class Random(Reducer):
    """Keep `keep` random visual tokens after layer `layer` (0: before the decoder)."""

    keep: int
    layer: int = 2
    seed: int = 0

    name: ClassVar[str] = "random"
    null_baseline: ClassVar[bool] = True
    counts: ClassVar[tuple[str, ...]] = ("keep",)

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(self.layer, self.keep),))

    def prepare(self, prompt: Prompt) -> torch.Tensor:
        """A number for each sample, (B, 1), from its question (never from answers) and its images.

        An image's number is that of its pixels, moved by how far its grid is from a square: the same patches as 4 rows
        of 6 and as 6 rows of 4 are two images.
        """
        import torch

        place = prompt.question_BT.long().cumsum(1)
        text = torch.where(prompt.question_BT, mix(prompt.text_ids_BT * 65537 + place), 0).sum(1, keepdim=True)
        media = prompt.media
        image = mix(media.fingerprint_BV + (media.rows_BV - media.columns_BV) * 65537)
        return mix(text) + torch.where(prompt.visual_valid_BV, image, 0).sum(1, keepdim=True)

    def score(self, view: View) -> torch.Tensor:
        number = mix(mix(view.memory + mix(view.memory * 0 + self.seed)) + view.rank_BV)
        return (number >> 40 & 0xFFFFFF).float()  # 24 bits: exact in float32

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        layer = params.setdefault("layer", 2)
        return cls(**{**params, "keep": single_cut(average, geometry, layer)})


def mix(number: torch.Tensor) -> torch.Tensor:
    """Scatter the bits of int64 numbers (the finaliser of splitmix64, in wrapping arithmetic)."""
    number = number + -7046029254386353131
    number = (number ^ (number >> 30 & (1 << 34) - 1)) * -4658895280553007687
    number = (number ^ (number >> 27 & (1 << 37) - 1)) * -7723592293110705685
    return number ^ (number >> 31 & (1 << 33) - 1)
