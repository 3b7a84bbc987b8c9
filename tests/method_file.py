"""The text of a file with a method of a user's own, which keeps the largest tokens of one cut."""

HEAD = """
from dataclasses import dataclass
from typing import ClassVar

from hidrop.budget import single_cut
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Reducer
"""
BODY = """

@dataclass(frozen=True)
class Mine(Reducer):
    keep: int
    layer: int = 2
    name: ClassVar[str] = "mine"
    counts: ClassVar[tuple[str, ...]] = ("keep",)

    def schedule(self, geometry):
        return Schedule(cuts=(Cut(self.layer, self.keep),))

    def score(self, view):
        return view.visual_BVD.float().norm(dim=-1)

    @classmethod
    def for_budget(cls, average, geometry, **params):
        layer = params.setdefault("layer", 2)
        return cls(**{**params, "keep": single_cut(average, geometry, layer)})
"""
MINE = HEAD + BODY
