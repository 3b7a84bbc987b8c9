"""A whole input on its way through a reduced model, from token ids and images to what leaves the last layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch

from hidrop.backbones import Backbone, Places, Vision
from hidrop.reducer import Reducer
from hidrop.runtime.cache import RaggedCache, Replay
from hidrop.runtime.decoder import Decoder
from hidrop.runtime.feature_cache import Encoder
from hidrop.runtime.inputs import decoder_prompt, placed, text_tokens, visual_tokens
from hidrop.runtime.layout import BatchPlan, Layout, grouped_places, media_by_row, plan_batch, read, valid_places
from hidrop.runtime.media_table import media_table
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


def check_counts(layout: Layout, vision: Vision | None) -> None:
    """Raises ValueError when the prompts have another number of placeholders than their images have visual tokens."""
    if vision is None:
        return  # without pixels: `visual_tokens` compares placeholders with the features that are there
    videos = sum(layout.video_counts)
    for kind, placed_there, found in zip(
        ("image", "video"), (sum(layout.visual_counts) - videos, videos), vision.sizes, strict=True
    ):
        if placed_there != found:
            raise ValueError(
                f"the prompts hold {placed_there} {kind} tokens, but the pixels give {found} visual tokens: let the "
                f"processor expand each {kind} into as many placeholders as it has tokens, and truncate no prompt"
            )


def check_window(backbone: Backbone, tokens: int) -> None:
    """Raises ValueError for more tokens than all layers of the model see."""
    if backbone.window is not None and tokens > backbone.window:
        raise ValueError(
            f"{tokens} tokens are more than the window of {backbone.title}'s layers with sliding attention "
            f"({backbone.window}), beyond which a reduced sequence has no definition: use fewer or smaller images"
        )


class ForwardPass:
    """The way through one model with one method, and what it counted. Shapes as in layout.py."""

    def __init__(self, backbone: Backbone, reducer: Reducer, features: Encoder | None = None) -> None:
        """Raises ValueError for a method that does not fit the backbone's positions, depth, image size or tokenizer."""
        reducer = reducer.on(backbone.geometry)
        self.backbone, self.reducer = backbone, reducer
        self.encode = reducer.encode if features is None else partial(features.encode, reducer)
        # Features that are kept are looked up by their pixels, which no graph can do.
        self.looks_up_features = features is not None
        self.geometry = backbone.geometry
        self.plan = reducer.plan(self.geometry)
        reducer.check_backbone(backbone)
        self._tokenizer = backbone.tokenizer if reducer.reads_text else None
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
        kind_BS: torch.Tensor | None = None,
        *,
        vision: Vision | None = None,
        places: Places | None = None,
        labels: torch.Tensor | None = None,
        multiple: int = 1,
    ) -> Layout:
        """Where everything is in a batch of prompts. `kind_BS`: the kind of each place, by default that of its id.

        `places`: RoPE positions, by default the family's. Raises ValueError for a mask of another shape, a prompt
        without text or beyond the model's window, and placeholders that are not as many as the tokens of `vision`.
        """
        valid = valid_places(ids_BS, mask_BS)
        kind_BS = self.backbone.kinds(ids_BS) if kind_BS is None else kind_BS
        if places is None and self.reducer.positions == "group":
            places = grouped_places(valid, kind_BS > 0)
        elif places is None:
            places = self.backbone.places(valid, kind_BS, vision)
        layout = read(valid, kind_BS, places, labels, multiple=multiple, both_ways=self.backbone.both_ways)
        check_counts(layout, vision)
        longest = max(map(sum, zip(layout.text_counts, layout.visual_counts, strict=True)))
        check_window(self.backbone, longest)
        if vision is not None:
            images, _ = self.backbone.media(vision.inputs)
            tokens = vision.tokens
            media_counts = media_by_row(layout, tokens[:images], tokens[images:])
            layout = replace(layout, media_counts=media_counts if self.reducer.encodes else None)
        if not self.reducer.prepares:
            return layout
        return replace(layout, media=media_table(layout.feature_BV, vision))

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

        encoder = self.reducer.name if self.reducer.own_features and vision is not None else None

        def entering() -> Entering:
            found = images
            if found is None:
                found = [] if vision is None else self.encode(vision)
            tokens = visual_tokens(found, text, layout, self.backbone.levels, encoder).passed(
                plan.inject - 1, self.reducer.deepstack
            )
            if apart and side_streams(ids_BS.device) and plan.inject <= len(self.decoder.layers):
                tokens = self.decoder.ahead(tokens, plan.inject)
            return found, tokens

        apart = plan.inject > 1 and not self.reducer.prepares and not torch.is_grad_enabled()
        made = SideStream(entering, ids_BS.device, apart=apart)
        sequence, record = self._prefill(ids_BS, text, made, layout, plan, cache)
        return Prefilled(*made(), sequence, record)

    def again(self, replay: Replay, cache: RaggedCache) -> torch.Tensor:
        """The input so far once more from the first layer, into the emptied cache; its hidden states."""
        layout = self.layout_of(replay.ids_BS, replay.mask_BS, replay.kind_BS, places=replay.places)
        text = text_tokens(self.embed, replay.ids_BS, layout)
        visual = replace(placed(replay.visual_BVD, layout.visual_BV), levels=replay.levels, side=replay.side)
        cache.start_again()
        plan = self.plan_of(layout)
        sequence, record = self._prefill(replay.ids_BS, text, lambda: ([], visual), layout, plan, cache)
        self.keep(record)
        return sequence.hidden

    def _prefill(
        self,
        ids_BS: torch.Tensor,
        text: Tokens,
        entering: Callable[[], Entering],
        layout: Layout,
        plan: BatchPlan,
        cache: RaggedCache | None,
    ) -> tuple[Sequence, Record]:
        """Through all layers what enters the decoder, and what was counted on the way."""
        memory = None
        if self.reducer.prepares:
            _, visual = entering()
            with torch.no_grad():
                memory = self.reducer.prepare(decoder_prompt(text, visual, ids_BS, layout, self._tokenizer))
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
