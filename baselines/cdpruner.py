"""CDPruner (NeurIPS 2025, arXiv 2506.10967): a determinantal point process over visual tokens, given the question.

The kernel is w_i S_ij w_j, with S the cosine of projected features. Tokens are chosen before the decoder, one by one
(determinantal.py), in float32. `relevance` says what w is made of:

- none: w = 1, the paper's ablation without the question.
- embeddings: the cosine of a visual token and the mean input embedding of the question (relevance.py), as OpenVINO
  GenAI does it.
- clip: minus the cosine of a patch and the question in CLIP's own space (clip_relevance.py), as released for LLaVA.

Several images of a prompt are one set to choose from. Positions are those of a prompt with that many visual tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hidrop.budget import single_cut
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Positions, Published, Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Backbone, Vision
    from hidrop.runtime.scoring import Prompt, View


@dataclass(frozen=True)
class CDPruner(Reducer):
    """Keep `keep` diverse and relevant tokens. `text_tower`: a CLIP checkpoint's folder or Hub id, for relevance: clip.

    `weight`: see relevance.py; by default 1 for clip and 0.5 for embeddings, as in their codes.
    """

    keep: int
    relevance: Literal["none", "embeddings", "clip"] = "embeddings"
    weight: float | None = None
    text_tower: str | None = None
    positions: Positions | None = None

    name: ClassVar[str] = "cdpruner"
    counts: ClassVar[tuple[str, ...]] = ("keep",)
    checkpoints: ClassVar[tuple[str, ...]] = ("text_tower",)
    paper: ClassVar[str] = "CDPruner, NeurIPS 2025, https://arxiv.org/abs/2506.10967"
    code: ClassVar[str] = "https://github.com/Theia-4869/CDPruner"
    published: ClassVar[Mapping[str, Published]] = {
        str(keep): Published({"keep": keep, "relevance": "clip"}, ("llava-1.5-7b", "llava-1.5-13b"))
        for keep in (128, 64, 32)
    }

    @property
    def released_positions(self) -> Positions:
        return "compacted"

    prepares = property(lambda self: self.relevance != "none")
    reads_text = annotates = property(lambda self: self.relevance == "clip")
    encodes = property(lambda self: False)

    def schedule(self, geometry: Geometry) -> Schedule:
        if (self.relevance == "clip") != (self.text_tower is not None):
            way = "give the folder of one (of openai/clip-vit-large-patch14-336 for LLaVA-1.5)"
            raise ValueError(
                f"text_tower: a CLIP checkpoint for relevance: clip, and for no other; {way} or leave it out"
            )
        if self.relevance == "clip" and geometry.tiled:
            raise ValueError("relevance: clip does not support images in tiles (LLaVA-NeXT); use embeddings")
        if self.weight is not None and (self.relevance == "none" or not 0 <= self.weight <= 1):
            raise ValueError(f"weight: {self.weight}: it must be in 0..1, and relevance: none has no weight")
        return Schedule(cuts=(Cut(0, self.keep),))

    def check_files(self, backbone: Backbone) -> None:
        if self.text_tower is not None:
            from baselines.clip_relevance import check

            check(self.text_tower, backbone)

    def encode(self, vision: Vision) -> list[torch.Tensor]:
        if self.text_tower is None:
            return super().encode(vision)
        from baselines.clip_relevance import annotated

        return annotated(vision, self.text_tower)

    def prepare(self, prompt: Prompt) -> torch.Tensor:
        from baselines.relevance import weights

        return weights(prompt, self.text_tower, self.weight)

    def score(self, view: View) -> torch.Tensor:
        from baselines.determinantal import greedy_order

        return greedy_order(view.visual_BVD, view.memory, view.valid_BV, view.cut.keep)

    @classmethod
    def for_budget(cls, average: float, geometry: Geometry, **params: Any) -> Self:
        return cls(**{**params, "keep": single_cut(average, geometry, 0)})
