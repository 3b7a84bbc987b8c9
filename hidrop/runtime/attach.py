"""`with reduce(model, reducer):` turns one transformers LLaVA or LLaVA-NeXT into a reduced one, and back.

Only the instance's `forward` is replaced. `generate()` (greedy, sampling, beams), `model(...)`, labels and gradient
checkpointing go on working; modules, weights and config stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from transformers import LlavaForConditionalGeneration, LlavaNextForConditionalGeneration
from transformers.cache_utils import Cache
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast

from hidrop.geometry import Geometry
from hidrop.reducer import Reducer
from hidrop.runtime import graph_forward as graphed
from hidrop.runtime import layout as layouts
from hidrop.runtime import outputs
from hidrop.runtime.cache import RaggedCache, Replay, cache_for
from hidrop.runtime.cuda_graphs import Graphs
from hidrop.runtime.decoder import Decoder
from hidrop.runtime.feature_cache import Encoder
from hidrop.runtime.forward_patch import bound, owner_of
from hidrop.runtime.inputs import decoder_prompt, placed, text_tokens, visual_tokens
from hidrop.runtime.layout import BatchPlan, Layout
from hidrop.runtime.sequence import Sequence, Tokens
from hidrop.runtime.side_stream import Beside, side_streams
from hidrop.runtime.supported import check_empty, check_model
from hidrop.runtime.trace import Kept, Record, Trace
from hidrop.runtime.vision import Vision

Llava: TypeAlias = LlavaForConditionalGeneration | LlavaNextForConditionalGeneration
# Features of each image of a batch, and the visual tokens that they are for the decoder.
Entering: TypeAlias = tuple[list[torch.Tensor], Tokens]
# Prefills whose counts may wait for a comparison: with more, the runtime compares them by itself.
PENDING = 64


class Reduction:
    """A reduced model's forward pass, and what it counted. Made by `reduce`."""

    def __init__(
        self, model: Llava, reducer: Reducer, features: Encoder | None = None, graphs: Graphs | None = None
    ) -> None:
        self.model, self.reducer = model, reducer
        self.encode = reducer.encode if features is None else partial(features.encode, reducer)
        # Features that are kept are looked up by their pixels, which no graph can do.
        self.encoded_before = features is not None
        self.graphs = graphs
        self.geometry = Geometry.from_config(model.config)
        self.plan = reducer.plan(self.geometry)
        self.decoder = Decoder(model.model.language_model, reducer)
        self._pending: list[Record] = []
        self._last: Record | None = None

    @property
    def trace(self) -> Trace:
        """What the last prefill really held. Raises RuntimeError before the first one."""
        return self._record.trace()

    @property
    def kept(self) -> tuple[Kept, ...]:
        """Which visual tokens each cut of the last prefill left. Raises RuntimeError before the first one."""
        return self._record.kept()

    def check(self) -> None:
        """Compare every prefill since the last check with its plan. Raises TraceMismatch."""
        pending, self._pending = self._pending, []
        for record in pending:
            record.check()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        image_sizes: torch.Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> tuple | LlavaCausalLMOutputWithPast:
        """`LlavaForConditionalGeneration.forward`, reduced. Differences from transformers:

        - `position_ids` are not read: positions follow from `attention_mask` (padding mask) and the method.
        - `logits` are (B, S, vocab) over the input; places whose token was dropped on the way hold zeros. With
          `logits_to_keep=1`, (B, 1, vocab) of each row's last token, whatever side the padding is on.
        - With `labels` (prefix of -100 before each answer) there is no cache; a token is predicted by the one before
          it in the sequence that leaves the last layer. In training mode `logits` is None, only the loss is computed.
        - `past_key_values` comes back as a RaggedCache. Raises ValueError for any other cache that is not empty.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("a reduced model needs input_ids (they say where the image is), not inputs_embeds")
        for name in ("output_attentions", "output_hidden_states"):
            if kwargs.get(name):
                raise ValueError(f"{name}: a reduced model has sequences of different lengths in its layers")
        if isinstance(past_key_values, RaggedCache) and past_key_values.segments:
            if labels is not None:
                raise ValueError("labels: training starts from the whole prompt, without past_key_values")
            return self._continue(input_ids, pixel_values, attention_mask, past_key_values, logits_to_keep, return_dict)
        check_empty(past_key_values)

        vision = None
        if pixel_values is not None:
            asked = vision_feature_layer, vision_feature_select_strategy
            vision = Vision.of(self.model, pixel_values, *asked, image_sizes)
        image = input_ids == self.model.config.image_token_id
        first_token = labels is None and logits_to_keep == 1
        if self.graphs and first_token and graphed.possible(self, use_cache, past_key_values):
            return graphed.prefill(self, self.graphs, input_ids, attention_mask, image, vision, return_dict)
        layout = self.layout_of(input_ids, attention_mask, image, labels)
        plan = layouts.plan_batch(self.reducer.schedule(self.geometry), self.geometry, layout)
        cache = cache_for(self.decoder.model, past_key_values, use_cache, labels is not None)
        (images, visual), sequence, record = self.whole(input_ids, layout, plan, vision, None, cache)
        self.keep(record)
        if cache is not None and self.reducer.rechosen:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            cache.replay = Replay(input_ids, mask, image, visual.hidden)

        hidden = self.decoder.model.norm(sequence.hidden)
        loss = None
        if labels is not None:
            loss = outputs.loss(self.model.lm_head, hidden, sequence, layout, num_items_in_batch)
        logits = None
        if labels is None or not self.model.training:
            logits = outputs.logits(self.model.lm_head, hidden, sequence, layout, input_ids.shape[1], logits_to_keep)
        return outputs.returned(logits, cache, images, return_dict, loss)

    def layout_of(
        self,
        ids_BS: torch.Tensor,
        mask_BS: torch.Tensor | None,
        image_BS: torch.Tensor,
        labels: torch.Tensor | None = None,
        multiple: int = 1,
    ) -> Layout:
        grouped = self.reducer.positions == "group"
        return layouts.read(ids_BS, mask_BS, image_BS, labels, grouped=grouped, multiple=multiple)

    def whole(
        self,
        ids_BS: torch.Tensor,
        layout: Layout,
        plan: BatchPlan,
        vision: Vision | None,
        images: list[torch.Tensor] | None,
        cache: RaggedCache | None,
    ) -> tuple[Entering, Sequence, Record]:
        """A whole input from its ids to what leaves the last layer. `images`: their features, if they are there.

        While the first layers see only text, the features are made beside them.
        """
        text = text_tokens(self.model.get_input_embeddings(), ids_BS, layout)

        def entering() -> Entering:
            found = images
            if found is None:
                found = [] if vision is None else self.encode(vision)
            tokens = visual_tokens(found, text, layout)
            if apart and side_streams(ids_BS.device) and plan.inject <= len(self.decoder.layers):
                tokens = self.decoder.ahead(tokens, plan.inject)
            return found, tokens

        apart = plan.inject > 1 and not self.reducer.prepares and not torch.is_grad_enabled()
        beside = Beside(entering, ids_BS.device, apart=apart)
        pixels = None if vision is None else vision.pixel_values
        sequence, record = self._prefill(ids_BS, text, beside, pixels, layout, plan, cache)
        return beside(), sequence, record

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
            cache.input_length = layout.position_BS.shape[1]
        return sequence, record

    def _continue(
        self,
        input_ids: torch.Tensor,
        pixel_values: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        cache: RaggedCache,
        logits_to_keep: int | torch.Tensor,
        return_dict: bool | None,
    ) -> tuple | LlavaCausalLMOutputWithPast:
        """Text behind a cached prompt: one token in decoding, several in a next turn (padded left if at all)."""
        count = input_ids.shape[1]
        valid = None
        if count > 1:
            if pixel_values is not None or bool((input_ids == self.model.config.image_token_id).any()):
                raise ValueError("images come with the first part of a prompt: start again without past_key_values")
            if attention_mask is not None:
                new = attention_mask[:, -count:].bool()
                valid = None if bool(new.all()) else new
        elif self.graphs is not None:
            logits = self.graphs.step(cache, input_ids, partial(graphed.step, self))
            if logits is not None:
                return outputs.returned(logits, cache, [], return_dict)
        cache.release()
        if cache.replay is not None:
            cache.replay = cache.replay.behind(input_ids, valid)
            hidden = self._again(cache.replay, cache)[:, -count:]
        else:
            hidden = self.decoder.step(self.model.get_input_embeddings()(input_ids), valid, cache)
        hidden = self.decoder.model.norm(hidden)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return outputs.returned(self.model.lm_head(hidden[:, keep]), cache, [], return_dict)

    def _again(self, replay: Replay, cache: RaggedCache) -> torch.Tensor:
        """The input so far once more from the first layer, into the emptied cache; its hidden states."""
        layout = self.layout_of(replay.ids_BS, replay.mask_BS, replay.image_BS)
        text = text_tokens(self.model.get_input_embeddings(), replay.ids_BS, layout)
        visual = placed(replay.visual_BVD, layout.visual_BV)
        plan = layouts.plan_batch(self.reducer.schedule(self.geometry), self.geometry, layout)
        cache.start_again()
        sequence, record = self._prefill(replay.ids_BS, text, lambda: ([], visual), None, layout, plan, cache)
        self.keep(record)
        return sequence.hidden

    @property
    def _record(self) -> Record:
        if self._last is None:
            raise RuntimeError("nothing has run yet: the trace is that of the last prefill")
        return self._last

    def keep(self, record: Record) -> None:
        if len(self._pending) >= PENDING:
            self.check()
        self._pending.append(record)
        self._last = record


@contextmanager
def reduce(
    model: Llava, reducer: Reducer, *, features: Encoder | None = None, graphs: Graphs | None = None
) -> Iterator[Reduction]:
    """Reduce `model` inside the block: `generate()` and `model(...)` run with `reducer`; afterwards it is as before.

    `features`: images that this model has seen before are taken from it, without the tower, and new ones put into it.
    It is for evaluation: it waits for the device, and no gradient passes.
    `graphs`: prefills and decoding steps are captured as CUDA graphs where that is possible, and kept in it. A cache
    is valid until the next prefill of its shape.

    On leaving, every prefill's counted tokens are compared with the plan.

    Raises TypeError for another architecture, ValueError for a reducer that does not fit the model's depth or image
    size, RuntimeError when the model is reduced already, TraceMismatch when a run did not follow its plan.
    """
    check_model(model)
    present = model.__dict__.get("forward")
    if (outer := owner_of(present)) is not None:
        raise RuntimeError(f"this model is already reduced with {outer.reducer}: leave that block first")
    reduction = Reduction(model, reducer, features, graphs)
    model.forward = bound(model, reduction.forward, reduction)
    try:
        yield reduction
    finally:
        del model.__dict__["forward"]
        if present is not None:
            model.forward = present
    reduction.check()
