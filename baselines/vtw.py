"""VTW, Visual Tokens Withdrawal (AAAI 2025, arXiv 2405.05803): all visual tokens leave before one layer.

Variant: the released code's. There is no score: layers 1 to `exit` - 1 see the whole image, later ones only text.
Convention: `exit` is the first layer without visual tokens, the code's k plus one, because k counts from 0. The search
that finds k on a few samples is not a part of this. Positions are kept; `positions: compacted` renumbers the text, as
the code can do too (`pe_type`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from hidrop.budget import nearest_count
from hidrop.geometry import Geometry
from hidrop.plan import Schedule
from hidrop.reducer import Positions, Published, Reducer


@dataclass(frozen=True)
class VTW(Reducer):
    """The whole image up to layer `exit` - 1, and no visual token from layer `exit` on."""

    exit: int
    positions: Positions | None = None

    name: ClassVar[str] = "vtw"
    paper: ClassVar[str] = (
        "Boosting Multimodal Large Language Models with Visual Tokens Withdrawal for Rapid Inference, AAAI 2025, "
        "https://arxiv.org/abs/2405.05803"
    )
    code: ClassVar[str] = "https://github.com/lzhxmu/VTW (a3d8cfc)"
    published: ClassVar[Mapping[str, Published]] = {"7b": Published({"exit": 16})}

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(exit=self.exit)

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        """Solve for `exit`, to the nearest layer: an average is a whole number of layers that see the image."""
        layers = nearest_count(average, geometry, 0, geometry.visual_tokens, 1, geometry.layers - 1)
        return cls(**{**params, "exit": layers + 1})
