"""A whole input on its way through a reduced model, from token ids and images to what leaves the last layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch

from hidrop.backbones import Backbone, Vision
from hidrop.reducer import Reducer
from hidrop.runtime.cache import RaggedCache, Replay
from hidrop.runtime.decoder import Decoder
from hidrop.runtime.feature_cache import Encoder
from hidrop.runtime.inputs import decoder_prompt, placed, text_tokens, visual_tokens
from hidrop.runtime.layout import BatchPlan, Layout, grouped_places, plan_batch, read, valid_places
from hidrop.runtime.sequence import Sequence, Tokens
from hidrop.runtime.side_stream import SideStream, side_streams
from hidrop.runtime.trace import Record

# Features of each image of a batch, and the visual tokens that they are for the decoder.
Entering: TypeAlias = tuple[list[torch.Tensor], Tokens]
# Prefills whose counts may wait for a comparison: with more, the runtime compares them by itself.
PENDING = 64


@dataclass(frozen=True)
class Prefilled:
    """What one prefill gave: features and visual tokens, the sequence after the last layer, and what was counted."""

    images: list[torch.Tensor]
    visual: Tokens
    sequence: Sequence
    record: Record


class ForwardPass:
    """The way through one model with one method, and what it counted. Shapes as in layout.py."""

    def __init__(self, backbone: Backbone, reducer: Reducer, features: Encoder | None = None) -> None:
        """Raises ValueError for a method that does not fit the backbone's positions, depth or image size."""
        if reducer.positions != "persistent" and not backbone.renumbers:
            raise ValueError(
                f"positions: {reducer.positions} has no meaning for {backbone.title}, whose positions are no single "
                "numbers; use persistent"
            )
        self.backbone, self.reducer = backbone, reducer
        self.encode = reducer.encode if features is None else partial(features.encode, reducer)
        # Features that are kept are looked up by their pixels, which no graph can do.
        self.looks_up_features = features is not None
        self.geometry = backbone.geometry
        self.plan = reducer.plan(self.geometry)
        self.decoder = Decoder(backbone, reducer)
        self._pending: list[Record] = []
        self._last: Record | None = None

    @property
    def embed(self) -> Any:
        """The token embeddings."""
        return self.backbone.model.get_input_embeddings()

    def logits_of(self, hidden: torch.Tensor) -> torch.Tensor:
        """The final norm and the LM head."""
        return self.backbone.head(self.decoder.model.norm(hidden))

    def layout_of(
        self,
        ids_BS: torch.Tensor,
        mask_BS: torch.Tensor | None,
        visual_BS: torch.Tensor | None = None,
        *,
        inputs: Mapping[str, torch.Tensor] | None = None,
        labels: torch.Tensor | None = None,
        multiple: int = 1,
    ) -> Layout:
        """Where everything is in a batch of prompts. `visual_BS`: placeholders, by default those among the ids.

        `inputs`: those of the images, by name. Raises ValueError for a mask of another shape or a prompt without text.
        """
        valid = valid_places(ids_BS, mask_BS)
        visual = self.backbone.is_visual(ids_BS) if visual_BS is None else visual_BS
        if self.reducer.positions == "group":
            places = grouped_places(valid, visual)
        else:
            places = self.backbone.places(ids_BS, valid, inputs or {})
        return read(valid, visual, places, labels, multiple=multiple)

    def plan_of(self, layout: Layout) -> BatchPlan:
        """What happens where for this batch. Raises ValueError when the schedule does not fit a row."""
        return plan_batch(self.reducer.schedule(self.geometry), self.geometry, layout)

    def whole(
        self,
        ids_BS: torch.Tensor,
        layout: Layout,
        plan: BatchPlan,
        vision: Vision | None,
        images: list[torch.Tensor] | None,
        cache: RaggedCache | None,
    ) -> Prefilled:
        """A whole input from its ids to what leaves the last layer. `images`: their features, if they are there.

        While the first layers see only text, the features are made on a side stream.
        """
        text = text_tokens(self.embed, ids_BS, layout)

        def entering() -> Entering:
            found = images
            if found is None:
                found = [] if vision is None else self.encode(vision)
            tokens = visual_tokens(found, text, layout)
            if apart and side_streams(ids_BS.device) and plan.inject <= len(self.decoder.layers):
                tokens = self.decoder.ahead(tokens, plan.inject)
            return found, tokens

        apart = plan.inject > 1 and not self.reducer.prepares and not torch.is_grad_enabled()
        made = SideStream(entering, ids_BS.device, apart=apart)
        pixels = None if vision is None else vision.pixel_values
        sequence, record = self._prefill(ids_BS, text, made, pixels, layout, plan, cache)
        return Prefilled(*made(), sequence, record)

    def again(self, replay: Replay, cache: RaggedCache) -> torch.Tensor:
        """The input so far once more from the first layer, into the emptied cache; its hidden states."""
        layout = self.layout_of(replay.ids_BS, replay.mask_BS, replay.visual_BS)
        text = text_tokens(self.embed, replay.ids_BS, layout)
        visual = placed(replay.visual_BVD, layout.visual_BV)
        cache.start_again()
        plan = self.plan_of(layout)
        sequence, record = self._prefill(replay.ids_BS, text, lambda: ([], visual), None, layout, plan, cache)
        self.keep(record)
        return sequence.hidden

    def _prefill(
        self,
        ids_BS: torch.Tensor,
        text: Tokens,
        entering: Callable[[], Entering],
        pixels: torch.Tensor | None,
        layout: Layout,
        plan: BatchPlan,
        cache: RaggedCache | None,
    ) -> tuple[Sequence, Record]:
        """Through all layers what enters the decoder, and what was counted on the way."""
        memory = None
        if self.reducer.prepares:
            images, visual = entering()
            with torch.no_grad():
                memory = self.reducer.prepare(decoder_prompt(text, visual, ids_BS, layout, pixels, images))
        sequence, record = self.decoder.prefill(text, lambda: entering()[1], layout, plan, cache, memory)
        if cache is not None:
            cache.input_length = layout.length
        return sequence, record

    # ---- counts -----------------------------------------------------------------------------------------------------

    def keep(self, record: Record) -> None:
        """Note a prefill's counts, to be compared with the plan later."""
        if len(self._pending) >= PENDING:
            self.check()
        self._pending.append(record)
        self._last = record

    def check(self) -> None:
        """Compare every prefill since the last check with its plan. Raises TraceMismatch."""
        pending, self._pending = self._pending, []
        for record in pending:
            record.check()

    @property
    def last(self) -> Record:
        """The counts of the last prefill. Raises RuntimeError before the first one."""
        if self._last is None:
            raise RuntimeError("nothing has run yet: the trace is that of the last prefill")
        return self._last
