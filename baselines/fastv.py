"""FastV (ECCV 2024, arXiv 2403.06764): one cut, after the first few layers.

Variant: the released code's cached one, without its faults. The score is the last prompt token's attention in the
layer that has just run, softmax over all keys, mean over heads. All released code does this; `query: all` is the mean
over all queries, as in the paper's text. Tokens are cut once in the prefill, and the choice stays while decoding
(`rechosen`: each generated token chooses again, as in the variants without a cache). Positions stay the original ones.
Convention: `layer` is the paper's K, the number of layers that see the whole image. Unlike the released code:
probabilities are float32, ties go to the earlier token, and each row of a batch has its own scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hidrop.budget import single_cut
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Published, Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.runtime.scoring import View


@dataclass(frozen=True)
class FastV(Reducer):
    """Keep the `keep` visual tokens that the last token attends to most in layer `layer`; drop the rest after it."""

    keep: int
    layer: int = 2
    query: Literal["last", "all"] = "last"
    rechosen: bool = False

    name: ClassVar[str] = "fastv"
    counts: ClassVar[tuple[str, ...]] = ("keep",)
    paper: ClassVar[str] = (
        "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large Vision-Language "
        "Models, ECCV 2024, https://arxiv.org/abs/2403.06764"
    )
    code: ClassVar[str] = "https://github.com/pkunlp-icler/FastV"
    # The paper's Table 1: K and the dropped share R. It has K = 5 with 90 % for the 13B model alone.
    published: ClassVar[Mapping[str, Published]] = {
        **{
            f"k{layer}-{dropped}%": Published({"layer": layer, "keep": keep}, ("llava-1.5-7b", "llava-1.5-13b"))
            for layer in (2, 3, 5)
            for dropped, keep in ((50, 288), (75, 144), (90, 58))
        },
        "k5-90%": Published({"layer": 5, "keep": 58}, ("llava-1.5-13b",)),
    }

    def schedule(self, geometry: Geometry) -> Schedule:
        if self.layer < 1:
            raise ValueError(f"layer: {self.layer} leaves no attention to score with; the first possible is 1")
        return Schedule(cuts=(Cut(self.layer, self.keep),))

    def score(self, view: View) -> torch.Tensor:
        return view.attention_to_visual(of="this", queries=view.every_token() if self.query == "all" else None)

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        layer = params.setdefault("layer", 2)
        return cls(**{**params, "keep": single_cut(average, geometry, layer)})
