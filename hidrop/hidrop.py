"""HiDrop (ICLR 2026, arXiv 2602.23699): late injection, concave pyramid pruning, early exit.

Visual tokens enter, untouched, right before layer `inject`; after each layer of `filters` only the best stay; right
before layer `exit` the rest leave. The score is the last token's attention (in training: of every token before an
answer, averaged) with the *next* layer's norm and projections, float32 softmax over all keys, mean over heads,
detached. Positions are those of the whole prompt, in every layer and while decoding.

Options for the paper's ablations: `query: text` scores with all text tokens that are no answer, weighted by the norm
of their hidden states; `positions: group` and `compacted` are the schemes of its Table 5; `topk: ste` and `soft-gate`
let the loss reach the scores in training, through the soft mask of its DTop-K. `ties: released` rounds scores and
keeps tied tokens as the released code does. `deepstack` says what happens, in decoders with DeepStack (Qwen3-VL), to
what is added to the visual tokens after layers that they skip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hidrop.budget import nearest_count
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import BudgetError, DeepStack, Positions, Published, Reducer, Ties, TopK

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.scoring import View

# What is left after the later filters in every published schedule, of PUBLISHED_IMAGE visual tokens.
PUBLISHED_TAIL, PUBLISHED_IMAGE = (10, 5, 1), 576


def _schedule(first: int, filters: tuple[int, ...] = (10, 14, 16, 18)) -> Published:
    """A published schedule for LLaVA-1.5-7B. All of them differ in the first count and the filters alone."""
    return Published({"inject": 9, "filters": filters, "keep": (first, *PUBLISHED_TAIL), "exit": 25})


@dataclass(frozen=True)
class HiDrop(Reducer):
    """Keep `keep[i]` visual tokens after layer `filters[i]`, in layers `inject` to `exit` - 1 (all 1-based)."""

    inject: int
    filters: tuple[int, ...]
    keep: tuple[int, ...]
    exit: int
    query: Literal["last", "text"] = "last"
    positions: Positions = "persistent"
    topk: TopK = "released"
    ties: Ties = "earlier"
    deepstack: DeepStack = "carry"

    name: ClassVar[str] = "hidrop"
    counts: ClassVar[tuple[str, ...]] = ("keep",)
    paper: ClassVar[str] = (
        "HiDrop: Hierarchical Vision Token Reduction in MLLMs via Late Injection, Concave Pyramid Pruning, and Early "
        "Exit, ICLR 2026, https://arxiv.org/abs/2602.23699"
    )
    code: ClassVar[str] = "https://github.com/EIT-NLP/HiDrop"
    published: ClassVar[Mapping[str, Published]] = {
        "80": _schedule(453, (10, 13, 16, 19)),
        "64": _schedule(215),
        "48": _schedule(87),
        "48-c1": _schedule(112, (10, 13, 16, 19)),
    }

    @property
    def adaptive(self) -> bool:
        return self.ties == "released"

    @property
    def bound(self) -> Literal["", "<=", "~"]:
        """With `ties: released` the plan is that of distinct scores, and ties add a few tokens to some samples."""
        return "~" if self.adaptive else ""

    @property
    def as_trained(self) -> Self:
        return replace(self, ties="earlier")

    def schedule(self, geometry: Geometry) -> Schedule:
        if len(self.filters) != len(self.keep):
            raise ValueError(f"keep: {len(self.keep)} counts for {len(self.filters)} filters {list(self.filters)}")
        if self.adaptive and self.topk != "released":
            raise ValueError(f"ties: released is the choice of topk: released, not of {self.topk}")
        cuts = tuple(Cut(layer, count) for layer, count in zip(self.filters, self.keep, strict=True))
        return Schedule(self.inject, cuts, self.exit)

    def score(self, view: View) -> torch.Tensor:
        queries = view.text_by_norm() if self.query == "text" else None
        return view.attention_to_visual(of="next", queries=queries, rounded=self.ties == "released")

    def choose(self, view: View) -> tuple[torch.Tensor, tuple[Cut, ...]]:
        """With `ties: released`: every token that scores as much as the last of the planned ones stays."""
        from hidrop.topk import tied_counts

        score = self.score(view)
        counts = tied_counts(score, view.valid_BV, view.cut.keep_B).tolist()
        return score, tuple(Cut(view.layer, count) for count in counts)

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        """Solves for the first count of `keep`; the later ones are given as keep: [null, 10, 5, 1].

        Without `keep` they are the published 10, 5, 1, scaled to the image's number of visual tokens.
        """
        missing = [key for key in ("inject", "filters", "exit") if key not in params]
        if missing:
            raise ValueError(f"{', '.join(missing)}: needed together with a budget")
        whole, filters = geometry.visual_tokens, params["filters"]
        tail = tuple(params.get("keep") or (None, *_published_tail(len(filters) - 1, whole)))
        if tail[:1] != (None,) or None in tail[1:] or len(tail) != len(filters):
            raise ValueError("keep: with a budget, write null for the first count and give one count per other filter")
        shape = cls(**{**params, "keep": (whole, *tail[1:])})
        entering = shape.plan(geometry).entering
        second = filters[1] if len(filters) > 1 else params["exit"] - 1
        solved = second - filters[0]
        fixed = sum(entering) - solved * whole
        first = nearest_count(average, geometry, fixed, solved, tail[1] if len(tail) > 1 else 1, whole)
        return replace(shape, keep=(first, *tail[1:]))


def _published_tail(length: int, whole: int) -> tuple[int, ...]:
    if length > len(PUBLISHED_TAIL):
        raise BudgetError(f"give keep: [null, ...] with {length} counts; published ones have {len(PUBLISHED_TAIL)}")
    return tuple(max(1, round(n * whole / PUBLISHED_IMAGE)) for n in PUBLISHED_TAIL[len(PUBLISHED_TAIL) - length :])
