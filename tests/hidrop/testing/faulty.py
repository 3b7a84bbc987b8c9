"""Small methods with one fault each. `Good` has none; each of the others changes one thing of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch

from hidrop.budget import single_cut
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import BudgetError, Mixture, Published, Reducer


@dataclass(frozen=True)
class Good(Reducer):
    """Keep the visual tokens with the largest hidden states after `layer`."""

    keep: int = 5
    layer: int = 2
    name: ClassVar[str] = "good"
    counts: ClassVar[tuple[str, ...]] = ("keep",)

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(self.layer, self.keep),))

    def score(self, view: Any) -> torch.Tensor:
        return view.visual_BVD.float().norm(dim=-1)

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        layer = params.setdefault("layer", 2)
        return cls(**{**params, "keep": single_cut(average, geometry, layer)})


@dataclass(frozen=True)
class GoodMerge(Good):
    """Of `keep` tokens half are chosen and half are the mean of the dropped ones, each at one of their places."""

    name: ClassVar[str] = "good-merge"

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(self.layer, self.keep - self.keep // 2, merge=self.keep // 2),))

    def dropped(self, view: Any, kept: torch.Tensor) -> torch.Tensor:
        return (view.valid_BV & ~kept).to(view.hidden_BND.dtype)

    def places(self, view: Any, kept: torch.Tensor, count: int) -> torch.Tensor:
        """The slots of the first dropped tokens, each of one merged token."""
        free = torch.where(view.valid_BV & ~kept, 1, 0)
        return free.argsort(dim=1, descending=True, stable=True)[:, :count]

    def merge(self, view: Any, score: torch.Tensor, kept: torch.Tensor, count: int) -> Mixture:
        weight = self.dropped(view, kept)[:, None].expand(-1, count, -1)
        return Mixture(weight, weight.sum(2).clamp(min=1), at_BM=self.places(view, kept, count))


# ---- scores ----------------------------------------------------------------------------------------------------------


class WrongShape(Good):
    def score(self, view: Any) -> torch.Tensor:
        return view.visual_BVD.float().norm(dim=-1)[:, :-1]


class WrongType(Good):
    def score(self, view: Any) -> torch.Tensor:
        return view.visual_BVD.norm(dim=-1).half()


class NotANumber(Good):
    def score(self, view: Any) -> torch.Tensor:
        return view.visual_BVD.float().mean(-1).log()


class HostRead(Good):
    def score(self, view: Any) -> torch.Tensor:
        norm = view.visual_BVD.float().norm(dim=-1)
        return norm / norm.max().item()


class HostList(Good):
    def score(self, view: Any) -> torch.Tensor:
        norms = view.visual_BVD.float().norm(dim=-1).tolist()
        return torch.zeros(view.visual_BV.shape) + torch.as_tensor(norms)


class BooleanIndex(Good):
    def score(self, view: Any) -> torch.Tensor:
        score = torch.zeros(view.visual_BV.shape)
        score[view.valid_BV] = view.visual_BVD.float().norm(dim=-1)[view.valid_BV]
        return score


class OtherRows(Good):
    def score(self, view: Any) -> torch.Tensor:
        norm = view.visual_BVD.float().norm(dim=-1)
        return norm - norm.mean(0)


class RowNumber(Good):
    def score(self, view: Any) -> torch.Tensor:
        norm = view.visual_BVD.float().norm(dim=-1)
        return norm * (1 - 2 * (torch.arange(len(norm)) % 2))[:, None]


class Fillers(Good):
    def score(self, view: Any) -> torch.Tensor:
        mean = view.hidden_BND.float().mean(1, keepdim=True)
        return (view.visual_BVD.float() - mean).norm(dim=-1)


class InfiniteOtherRows(OtherRows):
    """The same, with one score of minus infinity: inf - inf is NaN, which is no larger than anything."""

    def score(self, view: Any) -> torch.Tensor:
        return super().score(view).masked_fill(view.rank_BV == 0, -torch.inf)


class InfiniteFillers(Fillers):
    def score(self, view: Any) -> torch.Tensor:
        return super().score(view).masked_fill(view.rank_BV == 0, -torch.inf)


class NoDevice(Good):
    def score(self, view: Any) -> torch.Tensor:
        norm = view.visual_BVD.float().norm(dim=-1)
        return norm + torch.arange(norm.shape[1]) * 1e-9


class NoDeviceInPrepare(Good):
    def prepare(self, prompt: Any) -> torch.Tensor:
        return torch.ones(prompt.visual_BVD.shape[-1])

    def score(self, view: Any) -> torch.Tensor:
        return (view.visual_BVD.float() * view.memory).norm(dim=-1)


class NoDeviceAtAll(Good):
    def score(self, view: Any) -> torch.Tensor:
        return torch.arange(view.visual_BV.shape[1]).float().expand(view.visual_BV.shape)


class NoDeviceInChoose(Good):
    @property
    def adaptive(self) -> bool:
        return True

    def choose(self, view: Any) -> tuple[torch.Tensor, tuple[Cut, ...]]:
        norm = view.visual_BVD.float().norm(dim=-1)
        return norm + torch.zeros(norm.shape), view.cut.rows


class NoDeviceInMerge(GoodMerge):
    def dropped(self, view: Any, kept: torch.Tensor) -> torch.Tensor:
        return torch.where(view.valid_BV & ~kept, torch.ones(kept.shape), torch.zeros(kept.shape))


class ModelsType(Good):
    def score(self, view: Any) -> torch.Tensor:
        return view.visual_BVD.norm(dim=-1)


class OnlyFloat32(Good):
    def score(self, view: Any) -> torch.Tensor:
        return (view.visual_BVD @ torch.ones(view.hidden_BND.shape[-1], device=view.hidden_BND.device)).abs()


class Dice(Good):
    def score(self, view: Any) -> torch.Tensor:
        return torch.rand(view.visual_BV.shape)


class InPlace(Good):
    def score(self, view: Any) -> torch.Tensor:
        view.hidden_BND.mul_(2)
        return view.visual_BVD.float().norm(dim=-1)


class OtherWeights(Good):
    def score(self, view: Any) -> torch.Tensor:
        view.layers[0].input_layernorm.weight.data.mul_(1.001)
        return view.visual_BVD.float().norm(dim=-1)


class Cancelling(Good):
    def score(self, view: Any) -> torch.Tensor:
        moved = view.visual_BVD.float() + 1e5
        return moved.square().mean(-1) - moved.mean(-1).square()


class InfiniteCancelling(Cancelling):
    def score(self, view: Any) -> torch.Tensor:
        return super().score(view).masked_fill(view.rank_BV == 0, -torch.inf)


class Chaotic(Good):
    def score(self, view: Any) -> torch.Tensor:
        return (view.visual_BVD.float().norm(dim=-1) * 1e5).sin()


class Answers(Good):
    def score(self, view: Any) -> torch.Tensor:
        last = view.hidden_BND[:, -1:].float()
        return torch.nn.functional.cosine_similarity(view.visual_BVD.float(), last, dim=-1)


class Attached(Good):
    def score(self, view: Any) -> torch.Tensor:
        with torch.enable_grad():
            return view.layers[0].self_attn.q_proj(view.visual_BVD).float().norm(dim=-1)


class OneFamily(Good):
    def score(self, view: Any) -> torch.Tensor:
        return (view.visual_BVD.float() * torch.ones(32)).norm(dim=-1)


# ---- state -----------------------------------------------------------------------------------------------------------

CALLS = itertools.count()
FIRST: dict[Any, torch.Tensor] = {}


class Counter(Good):
    def score(self, view: Any) -> torch.Tensor:
        norm = view.visual_BVD.float().norm(dim=-1)
        return norm.roll(next(CALLS), 1)


class Remembers(Good):
    """The first score of each shape."""

    def score(self, view: Any) -> torch.Tensor:
        return FIRST.setdefault(view.visual_BV.shape, view.visual_BVD.float().norm(dim=-1))


class CountedPlan(Good):
    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(self.layer, self.keep - next(CALLS) % 2),))


class PlanOfState(Good):
    """Its schedule is another one as soon as it has scored four times."""

    scored: ClassVar[list[int]] = []

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(self.layer, self.keep - (len(self.scored) > 3)),))

    def score(self, view: Any) -> torch.Tensor:
        self.scored.append(1)
        return view.visual_BVD.float().norm(dim=-1)


class PlanOfTensors(Good):
    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(self.layer, int(torch.tensor(self.keep))),))


class TooDeep(Good):
    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(12, self.keep),))


class TooMany(Good):
    """Adaptive, and keeps more than its plan."""

    @property
    def adaptive(self) -> bool:
        return True

    def choose(self, view: Any) -> tuple[torch.Tensor, tuple[Cut, ...]]:
        return self.score(view), tuple(Cut(view.layer, min(there, cut.keep + 1)) for there, cut in there_and_cuts(view))


def there_and_cuts(view: Any) -> Any:
    return zip(view.cut.there, view.cut.rows, strict=True)


# ---- budgets ---------------------------------------------------------------------------------------------------------


class MissedBudget(Good):
    """Forgets the layers before the cut."""

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        if not 1 <= average <= geometry.visual_tokens:
            raise BudgetError("out of reach", (1, geometry.visual_tokens))
        return cls(**{**params, "keep": round(average)})


class OneBudget(Good):
    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        return cls(**{**params, "keep": 100})


class IgnoredField(Good):
    """Right for layer 2 alone."""

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        return cls(keep=single_cut(average, geometry, 2))


class SolvedForAnother(Good):
    """Solves the plan for the layer that it is given, and forgets to pass that on."""

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        return cls(keep=single_cut(average, geometry, params.get("layer", 2)))


# ---- published settings ----------------------------------------------------------------------------------------------


class UnknownField(Good):
    published: ClassVar[Mapping[str, Published]] = {"64": Published({"kep": 64})}


class WrongValue(Good):
    published: ClassVar[Mapping[str, Published]] = {"99": Published({"keep": "many"})}


class NoSuchLayer(Good):
    published: ClassVar[Mapping[str, Published]] = {"99": Published({"keep": 99, "layer": 32})}


# ---- prompts ---------------------------------------------------------------------------------------------------------


class NeedsAnImage(Good):
    def prepare(self, prompt: Any) -> torch.Tensor:
        return prompt.visual_BVD.amax(1)


class CountingPrepare(Good):
    def prepare(self, prompt: Any) -> torch.Tensor:
        return prompt.text_BTD.sum((1, 2)) + next(CALLS)


class ChangesThePrompt(Good):
    def prepare(self, prompt: Any) -> torch.Tensor:
        return prompt.text_BTD.mul_(0.5)


# ---- merged tokens ---------------------------------------------------------------------------------------------------


class MergedAtFillers(GoodMerge):
    def places(self, view: Any, kept: torch.Tensor, count: int) -> torch.Tensor:
        return torch.arange(count).expand(len(kept), -1)


class MergedAtOnePlace(GoodMerge):
    def places(self, view: Any, kept: torch.Tensor, count: int) -> torch.Tensor:
        return super().places(view, kept, count)[:, :1].expand(-1, count)


class MergedFillers(GoodMerge):
    def dropped(self, view: Any, kept: torch.Tensor) -> torch.Tensor:
        return (~kept).to(view.hidden_BND.dtype)


# ---- classes ---------------------------------------------------------------------------------------------------------


class NoDataclass(Good):
    pass


@dataclass(frozen=True)
class TakenName(Good):
    name: ClassVar[str] = "fastv"


@dataclass(frozen=True)
class NoType(Good):
    name: ClassVar[str] = "no-type"
    share = 0.5


@dataclass(frozen=True)
class ListField(Good):
    layers: tuple[int, ...] = field(default_factory=lambda: [2])  # type: ignore[arg-type,return-value]
    name: ClassVar[str] = "list-field"


@dataclass(frozen=True)
class NoCounts(Good):
    name: ClassVar[str] = "no-counts"
    counts: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class OneCountUnnamed(Good):
    """Names one of its two counts."""

    more: int = 2
    name: ClassVar[str] = "one-count-unnamed"

    def schedule(self, geometry: Geometry) -> Schedule:
        return Schedule(cuts=(Cut(self.layer, self.keep + self.more),))


class Nowhere(Good):
    @classmethod
    def refuses(cls, family: Any) -> str | None:
        return "not on this day"
