"""The base of methods that give each image fewer tokens before the decoder: `downsample`, `visionzip` and others.

A prompt has as many placeholders as the whole image has tokens. The features are padded with zeros to that number, and
a cut before the first layer removes the padding, so the runtime needs no special case. Positions are those of a prompt
with that many visual tokens; where positions are kept (M-RoPE), those of the places that a method puts its tokens at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule
from hidrop.reducer import Positions, Reducer

if TYPE_CHECKING:
    import torch

    from hidrop.backbones import Backbone, Vision
    from hidrop.runtime.scoring import Prompt, View


# The models that settings in numbers of LLaVA-1.5's 576 tokens are for.
LLAVA = ("llava-1.5-7b", "llava-1.5-13b")
TILES = "images in tiles (anyres, as in LLaVA-NeXT) are not supported"


@dataclass(frozen=True)
class Encoded(Reducer):
    """Base: a method says how many `tokens` an image of `geometry.visual_tokens` gets, and makes them in `compress`."""

    positions: Positions | None = field(default=None, kw_only=True)

    @property
    def tokens(self) -> int:
        raise NotImplementedError

    def compress(self, vision: Vision) -> list[torch.Tensor]:
        """Features of each medium, (at most as many as the whole one has, D): `left` tokens, all others zeros."""
        raise NotImplementedError

    @property
    def released_positions(self) -> Positions:
        return "compacted"

    @classmethod
    def refuses(cls, family: type[Backbone]) -> str | None:
        """Families with tiles that end their lines with a token, and towers whose attention nobody can ask for."""
        from hidrop.backbones import Backbone

        if family.line_ends:
            return TILES
        if not family.class_token and family.attended is Backbone.attended:
            return f"{family.title}: it needs a tower with a class token, or images that are one grid of patches each"
        return None

    def schedule(self, geometry: Geometry) -> Schedule:
        if geometry.tiled:
            raise ValueError(f"{self.name}: {TILES}")
        return Schedule(cuts=(Cut(0, self.tokens),))

    def left(self, geometry: Geometry, whole: int) -> int:
        """Tokens of an image that has `whole` of them."""
        return self.schedule(geometry).scaled(geometry, whole).cuts[0].left

    def encode(self, vision: Vision) -> list[torch.Tensor]:
        return vision.padded(self.compress(vision))

    def prepare(self, prompt: Prompt) -> torch.Tensor:
        """1 for the tokens that a method has made, 0 for the padding."""
        return prompt.visual_BVD.any(-1).float()

    def score(self, view: View) -> torch.Tensor:
        return view.memory
