"""A walk through the decoder, layer by layer. Branches with other tokens continue from any of its layers.

Shapes as in runtime/layout.py; D hidden size. Layers are 1-based. Only the cache and one layer's states are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from typing import Any

import torch

from hidrop.analysis.forked_cache import forked
from hidrop.backbones import backbone_of
from hidrop.methods import build
from hidrop.runtime.cache import RaggedCache
from hidrop.runtime.forward import ForwardPass
from hidrop.runtime.generation import new_tokens
from hidrop.runtime.inputs import text_tokens, visual_tokens
from hidrop.runtime.layout import RowCuts
from hidrop.runtime.sequence import Sequence
from hidrop.topk import keep_top


@dataclass(frozen=True)
class Branch:
    """A sequence other than the walk's, with `counts` visual tokens in each row."""

    sequence: Sequence
    counts: list[int]


class Walk:
    """One batch of prompts on its way through the unreduced model, under `torch.inference_mode`.

    inputs: input_ids, attention_mask, pixel_values and whatever else the model takes for its images. features: those of
    the images, if they are known. blind: the visual tokens enter only in branches.
    Raises ValueError for a prompt without an image.
    """

    def __init__(
        self,
        forward: ForwardPass,
        inputs: Mapping[str, torch.Tensor],
        *,
        features: list[torch.Tensor] | None = None,
        blind: bool = False,
    ) -> None:
        self.forward, self.decoder = forward, forward.decoder
        ids = inputs["input_ids"]
        vision = forward.backbone.vision(inputs)
        if not bool((forward.backbone.kinds(ids) > 0).any(1).all()):
            raise ValueError("a prompt without an image: there are no visual tokens to analyze")
        self.layout = forward.layout_of(ids, inputs.get("attention_mask"), vision=vision)
        if features is None:
            if vision is None:
                raise ValueError("a prompt with an image, but no pixel_values among the inputs")
            features = forward.encode(vision)
        self.features = features
        text = text_tokens(forward.embed, ids, self.layout)
        self.visual = visual_tokens(self.features, text, self.layout, forward.backbone.levels)
        self.cache = RaggedCache(self.decoder.model.config)
        self.cache.input_length = ids.shape[1]
        self.run = self.decoder.begin(text, self.layout, self.cache)
        self.sequence = self.decoder.placed(Sequence(text, None if blind else self.visual), self.run)
        self._counts = [0] * ids.shape[0] if blind else list(self.layout.visual_counts)

    def stations(self) -> Iterator[tuple[int, Sequence]]:
        """Yield (layer, what enters it) for each layer, and at the end (layers + 1, what leaves the last one).

        A sequence is valid until the next one is yielded. Branches may start at each layer.
        """
        padded = self._padded(self._counts, self.sequence)
        for layer in range(1, len(self.decoder.layers) + 1):
            yield layer, self.sequence
            self.decoder.through(self.sequence, layer, layer, self.run, padded=padded)
        yield len(self.decoder.layers) + 1, self.sequence

    def attention(self, layer: int, sequence: Sequence) -> torch.Tensor:
        """The last token's attention to the visual tokens in this layer, (B, H, V) float32, 0 for fillers.

        `sequence` is what enters the layer.
        """
        whole = RowCuts.none(layer - 1, self.layout.visual_counts, sequence.order.device)
        seen = self.decoder.view(sequence, None, whole, self.run).attention_by_head("next")[:, :, 0]
        there = (sequence.order.gather(1, sequence.visual) >= 0)[:, None]
        return torch.where(there, seen.gather(2, sequence.visual[:, None].expand(-1, seen.shape[1], -1)), 0)

    def leaving(self, sequence: Sequence, rank_BV: torch.Tensor | None = None, share: float = 1.0) -> Branch:
        """The sequence without a `share` of its visual tokens: those with the lowest `rank_BV` of each row leave."""
        counts = [n - round(share * n) for n in self.layout.visual_counts]
        if max(counts) == 0:
            return Branch(sequence.keeping(sequence.visual[:, :0]), [0] * len(counts))
        assert rank_BV is not None
        there = sequence.order.gather(1, sequence.visual) >= 0
        index = keep_top(rank_BV, there, torch.tensor(counts, device=there.device), max(counts))
        return Branch(sequence.keeping(index), counts)

    def entering(self, layer: int, sequence: Sequence) -> Branch:
        """A blind sequence with the visual tokens added, as they come from the projector, before `layer`."""
        visual = self.visual.passed(layer - 1, self.forward.reducer.deepstack)
        return Branch(Sequence(sequence.part(sequence.text), visual), list(self.layout.visual_counts))

    def answers(self, layer: int, branch: Branch, longest: int, ends: SequenceOf[int]) -> list[list[int]]:
        """Greedy answers when `branch` enters `layer` and all later ones: ids of each row, the end token included.

        The cache of the layers before is shared with the walk. A `layer` after the last: the walk's own answers.
        """
        cache = forked(self.cache, self.decoder.model.config, layer)
        sequence = self.decoder.placed(branch.sequence, self.run)
        run, last = replace(self.run, cache=cache), len(self.decoder.layers)
        if layer <= last:
            self.decoder.through(sequence, layer, last, run, padded=self._padded(branch.counts, sequence))
        return self._greedy(sequence.hidden[:, -1:], cache, longest, ends)

    def own(self, sequence: Sequence) -> Branch:
        """The unchanged sequence, for the unreduced model's answers."""
        return Branch(sequence, list(self._counts))

    def _padded(self, counts: SequenceOf[int], sequence: Sequence) -> bool:
        there = [n + text for n, text in zip(counts, self.layout.text_counts, strict=True)]
        return min(there) < sequence.order.shape[1]

    def _greedy(self, hidden: torch.Tensor, cache: RaggedCache, longest: int, ends: SequenceOf[int]) -> list[list[int]]:
        stop = torch.tensor(list(ends), device=hidden.device)
        made: list[torch.Tensor] = []
        finished = torch.zeros(hidden.shape[0], dtype=torch.bool, device=hidden.device)
        while True:
            token = self.forward.logits_of(hidden)[:, -1:].argmax(-1)
            made.append(token)
            finished |= torch.isin(token[:, 0], stop)
            if len(made) == longest or bool(finished.all()):
                break
            hidden = self.decoder.step(self.forward.embed(token), None, cache)
        return [new_tokens(row, ends) for row in torch.cat(made, 1).tolist()]


def unreduced(model: Any) -> ForwardPass:
    """The runtime's forward pass of `model` with all its visual tokens."""
    return ForwardPass(backbone_of(model), build("vanilla"))
