"""The base of methods that give each image fewer tokens before the decoder: `downsample`, `visionzip`.

A prompt has as many placeholders as the whole image has tokens. The features are padded to that number, and a cut
before the first layer removes the padding, so the runtime needs no special case. Positions are those of a prompt
with that many visual tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Positions, Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Vision
    from hidrop.runtime.scoring import Prompt, View


@dataclass(frozen=True)
class Encoded(Reducer):
    """Base: a method says how many `tokens` an image gets, and makes them in `compress`."""

    positions: Positions | None = field(default=None, kw_only=True)

    @property
    def tokens(self) -> int:
        raise NotImplementedError

    def compress(self, vision: Vision) -> torch.Tensor:
        """(images, tokens, D)."""
        raise NotImplementedError

    @property
    def released_positions(self) -> Positions:
        return "compacted"

    def schedule(self, geometry: Geometry) -> Schedule:
        if geometry.dynamic:
            raise ValueError(f"{self.name}: images in tiles (anyres, as in LLaVA-NeXT) are not supported")
        return Schedule(cuts=(Cut(0, self.tokens),))

    def encode(self, vision: Vision) -> list[torch.Tensor]:
        import torch

        found = self.compress(vision)
        whole = vision.backbone.geometry.visual_tokens
        return list(torch.nn.functional.pad(found, (0, 0, 0, whole - found.shape[1])))

    def prepare(self, prompt: Prompt) -> torch.Tensor:
        return (prompt.media.inside_BV < self.tokens).float()

    def score(self, view: View) -> torch.Tensor:
        return view.memory
