"""DART (EMNLP 2025, arXiv 2502.11494): keep a few pivots, and the visual tokens that resemble them least.

Variant: the released code's. Pivots are the tokens whose keys (after rope, in the layer that has just run) have the
largest L1 norm: `image_pivots` visual tokens, which stay, and `text_pivots` of the text after the image. In turns, each
takes its share of the other visual tokens: those whose state, through the decoder's final norm, has the smallest cosine
to its own. `order` of the turns: that of a Python set of the pivots' places in the prompt, as released, or by norm with
those of the image first. No attention is computed. Positions are kept.

`variant: embedding` is TensorRT-Edge-LLM's: before the decoder, norms and cosines of its input, pivots of all text, by
norm. A share is always that code's: what is left to take over the pivots left, rounded up. Released counts make it the
same for all pivots. Unlike the released code: float32, ties to the earlier token, answers of training are no pivots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from baselines.set_order import MOST_MEMBERS
from hidrop.budget import single_cut
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Published, Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.scoring import View


@dataclass(frozen=True)
class DART(Reducer):
    """Keep `keep` visual tokens, pivots included, after layer `layer` (2; in the variant `embedding` none)."""

    keep: int
    layer: int | None = None
    image_pivots: int = 4
    text_pivots: int = 4
    order: Literal["released", "norm"] | None = None
    variant: Literal["decoder", "embedding"] = "decoder"

    name: ClassVar[str] = "dart"
    counts: ClassVar[tuple[str, ...]] = ("keep",)
    paper: ClassVar[str] = (
        "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More, EMNLP 2025, "
        "https://arxiv.org/abs/2502.11494"
    )
    code: ClassVar[str] = "https://github.com/ZichenWen1/DART"
    # The authors' number leaves the image's pivots out.
    published: ClassVar[Mapping[str, Published]] = {n: Published({"keep": int(n) + 4}) for n in ("192", "128", "64")}

    @property
    def published_as(self) -> str | None:
        plain = replace(self, layer=None) if self.layer == 2 else self
        return next((label for label, one in self.published.items() if type(self)(**one.fields) == plain), None)

    @property
    def reads_input(self) -> bool:
        return self.variant == "embedding"  # its text pivots are embeddings

    def schedule(self, geometry: Geometry) -> Schedule:
        embedding, pivots = self.variant == "embedding", self.image_pivots + self.text_pivots
        if self.image_pivots < 1 or self.text_pivots < 0:
            raise ValueError(f"image_pivots: {self.image_pivots} and {self.text_pivots} of text; at least 1 and 0")
        if embedding and (self.layer or self.order == "released"):
            raise ValueError("variant: embedding cuts before the decoder, by norm; leave layer and order out")
        if not embedding and self.layer is not None and self.layer < 1:
            raise ValueError(f"layer: {self.layer} leaves no keys to choose pivots by; the first possible is 1")
        if not embedding and self.order != "norm" and pivots > MOST_MEMBERS:
            raise ValueError(f"order: released is for up to {MOST_MEMBERS} pivots, not {pivots}; use norm")
        return Schedule(cuts=(Cut(0 if embedding else self.layer or 2, self.keep),))

    def score(self, view: View) -> torch.Tensor:
        """1 for a token that stays, 0 for another."""
        from baselines.pivots import after_the_image, largest, take_turns

        count = self.image_pivots, self.text_pivots
        if self.variant == "embedding":
            found = largest(view, view.hidden_BND.float().abs().sum(2), view.asked_BT, *count)
            return take_turns(view, found, lambda states: states).float()
        found = largest(view, view.used_keys().float().abs().sum((1, 3)), after_the_image(view), *count)
        turns = found if self.order == "norm" else found.in_set_order(view)
        return take_turns(view, turns, view.final_norm).float()

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        layer = cls(**{**params, "keep": 1}).schedule(geometry).cuts[0].after
        return cls(**{**params, "keep": single_cut(average, geometry, layer)})
