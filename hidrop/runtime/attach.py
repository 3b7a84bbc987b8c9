"""`with reduce(model, reducer):` turns one transformers LLaVA or LLaVA-NeXT into a reduced one, and back.

Only the instance's `forward` is replaced. `generate()` (greedy, sampling, beams), `model(...)`, labels and gradient
checkpointing go on working; modules, weights and config stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch.nn import functional as F
from transformers import DynamicCache, LlavaForConditionalGeneration, LlavaNextForConditionalGeneration
from transformers.cache_utils import Cache
from transformers.models.llava.modeling_llava import LlavaCausalLMOutputWithPast

from hidrop.geometry import Geometry
from hidrop.reducer import Reducer
from hidrop.runtime import layout as layouts
from hidrop.runtime.cache import RaggedCache, Replay
from hidrop.runtime.decoder import Decoder, Sequence, Tokens
from hidrop.runtime.features import FeatureCache
from hidrop.runtime.inputs import decoder_prompt, placed, text_tokens, visual_tokens
from hidrop.runtime.layout import IGNORED, Layout
from hidrop.runtime.scoring import Prompt
from hidrop.runtime.trace import Record, Trace
from hidrop.runtime.vision import Vision

Llava: TypeAlias = LlavaForConditionalGeneration | LlavaNextForConditionalGeneration
# Prefills whose counts may wait for a comparison: with more, the runtime compares them by itself.
PENDING = 64


class Reduction:
    """A reduced model's forward pass, and what it counted. Made by `reduce`."""

    def __init__(self, model: Llava, reducer: Reducer, features: FeatureCache | None = None) -> None:
        self.model = model
        self.reducer = reducer
        self.encode = reducer.encode if features is None else partial(features.encode, reducer)
        self.geometry = Geometry.from_config(model.config)
        self.plan = reducer.plan(self.geometry)
        self.decoder = Decoder(model.model.language_model, reducer)
        self._pending: list[Record] = []
        self._last: Record | None = None

    @property
    def trace(self) -> Trace:
        """What the last prefill really held. Raises RuntimeError before the first one."""
        if self._last is None:
            raise RuntimeError("nothing has run yet: the trace is that of the last prefill")
        return self._last.trace()

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
        _check_empty(past_key_values)

        image = input_ids == self.model.config.image_token_id
        layout = self._layout(input_ids, attention_mask, image, labels)
        text = text_tokens(self.model.get_input_embeddings(), input_ids, layout)
        images: list[torch.Tensor] = []
        if pixel_values is not None:
            config = self.model.config
            layer = config.vision_feature_layer if vision_feature_layer is None else vision_feature_layer
            strategy = vision_feature_select_strategy or config.vision_feature_select_strategy
            images = self.encode(Vision(self.model, pixel_values, layer, strategy, image_sizes))
        visual = visual_tokens(images, text, layout)
        cache = self._new_cache(past_key_values, use_cache, labels is not None)
        if cache is not None and self.reducer.rechosen:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            cache.replay = Replay(input_ids, mask, image, visual.hidden)
        prompt = decoder_prompt(text, visual, input_ids, layout, pixel_values, images)
        sequence = self._prefill(prompt, text, visual, layout, cache)

        hidden = self.decoder.model.norm(sequence.hidden)
        loss = None
        if labels is not None:
            loss = self._loss(hidden, sequence, layout, num_items_in_batch)
        logits = None
        if labels is None or not self.model.training:
            logits = self._logits(hidden, sequence, layout, input_ids.shape[1], logits_to_keep)
        output = LlavaCausalLMOutputWithPast(
            loss=loss, logits=logits, past_key_values=cache, image_hidden_states=torch.cat(images) if images else None
        )
        return output.to_tuple() if return_dict is False else output

    def _layout(
        self,
        ids_BS: torch.Tensor,
        mask_BS: torch.Tensor | None,
        image_BS: torch.Tensor,
        labels: torch.Tensor | None = None,
    ) -> Layout:
        return layouts.read(ids_BS, mask_BS, image_BS, labels, grouped=self.reducer.positions == "group")

    def _prefill(
        self, prompt: Prompt, text: Tokens, visual: Tokens, layout: Layout, cache: RaggedCache | None
    ) -> Sequence:
        """The whole input through the decoder, counted; what leaves its last layer."""
        plan = layouts.plan_batch(self.reducer, self.geometry, layout)
        with torch.no_grad():
            memory = self.reducer.prepare(prompt)
        sequence, record = self.decoder.prefill(text, visual, layout, plan, cache, memory)
        if cache is not None:
            cache.input_length = layout.position_BS.shape[1]
        self._keep(record)
        return sequence

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
        if cache.replay is not None:
            cache.replay = cache.replay.behind(input_ids, valid)
            hidden = self._again(cache.replay, cache)[:, -count:]
        else:
            hidden = self.decoder.step(self.model.get_input_embeddings()(input_ids), valid, cache)
        hidden = self.decoder.model.norm(hidden)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        output = LlavaCausalLMOutputWithPast(logits=self.model.lm_head(hidden[:, keep]), past_key_values=cache)
        return output.to_tuple() if return_dict is False else output

    def _again(self, replay: Replay, cache: RaggedCache) -> torch.Tensor:
        """The input so far once more from the first layer, into the emptied cache; its hidden states."""
        layout = self._layout(replay.ids_BS, replay.mask_BS, replay.image_BS)
        text = text_tokens(self.model.get_input_embeddings(), replay.ids_BS, layout)
        visual = placed(replay.visual_BVD, layout.visual_BV)
        prompt = decoder_prompt(text, visual, replay.ids_BS, layout, None, [])
        cache.start_again()
        return self._prefill(prompt, text, visual, layout, cache).hidden

    def _new_cache(self, given: Cache | None, wanted: bool | None, training: bool) -> RaggedCache | None:
        config = self.decoder.model.config
        checkpointing = self.model.training and getattr(self.decoder.layers[0], "gradient_checkpointing", False)
        if training or checkpointing:
            return None
        if given is None and not (config.use_cache if wanted is None else wanted):
            return None
        return given if isinstance(given, RaggedCache) else RaggedCache(config)

    def _logits(
        self, hidden: torch.Tensor, sequence: Sequence, layout: Layout, length: int, keep: int | torch.Tensor
    ) -> torch.Tensor:
        if isinstance(keep, int) and keep == 1:
            return self.model.lm_head(hidden[:, -1:])
        source = layout.sources(sequence.order)
        place = torch.where(source >= 0, source, length)[:, :, None].expand_as(hidden)
        full = hidden.new_zeros(hidden.shape[0], length + 1, hidden.shape[2]).scatter(1, place, hidden)[:, :length]
        return self.model.lm_head(full[:, slice(-keep, None) if isinstance(keep, int) else keep])

    def _loss(
        self, hidden: torch.Tensor, sequence: Sequence, layout: Layout, items: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Mean cross entropy over the labels (over `items` instead, as transformers' Trainer asks for)."""
        label_BN = layout.labels(sequence.order)
        assert label_BN is not None
        target = label_BN[:, 1:]
        wanted = (target != IGNORED) & (sequence.order[:, :-1] >= 0)  # nothing is predicted from padding
        logits = self.model.lm_head(hidden[:, :-1][wanted]).float()
        total = F.cross_entropy(logits, target[wanted].to(logits.device), reduction="sum")
        return total / (wanted.sum().clamp(min=1) if items is None else items)

    def _keep(self, record: Record) -> None:
        if len(self._pending) >= PENDING:
            self.check()
        self._pending.append(record)
        self._last = record


@contextmanager
def reduce(model: Llava, reducer: Reducer, *, features: FeatureCache | None = None) -> Iterator[Reduction]:
    """Reduce `model` inside the block: `generate()` and `model(...)` run with `reducer`; afterwards it is as before.

    `features`: images that this model has seen before are taken from it, without the tower, and new ones put into it.
    It is for evaluation: it waits for the device, and no gradient passes.

    On leaving, every prefill's counted tokens are compared with the plan.

    Raises TypeError for another architecture, ValueError for a reducer that does not fit the model's depth or image
    size, RuntimeError when the model is reduced already, TraceMismatch when a run did not follow its plan.
    """
    _check_model(model)
    present = model.__dict__.get("forward")
    if isinstance(getattr(present, "__self__", None), Reduction):
        raise RuntimeError(f"this model is already reduced with {present.__self__.reducer}: leave that block first")
    reduction = Reduction(model, reducer, features)
    model.forward = reduction.forward
    try:
        yield reduction
    finally:
        del model.__dict__["forward"]
        if present is not None:
            model.forward = present
    reduction.check()


def _check_model(model: Any) -> None:
    if not isinstance(model, (LlavaForConditionalGeneration, LlavaNextForConditionalGeneration)):
        raise TypeError(f"reduce works on transformers' LLaVA and LLaVA-NeXT, not on {type(model).__name__}")
    text = model.config.text_config
    layer: Any = model.model.language_model.layers[0]
    needed = [getattr(layer, "input_layernorm", None)]
    needed += [getattr(layer.self_attn, name, None) for name in ("q_proj", "k_proj")]
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    if None in needed or hasattr(layer.self_attn, "q_norm") or kinds != {"full_attention"} or window:
        raise TypeError(f"decoder '{text.model_type}' is not supported: it needs LLaMA's layers with full attention")


def _check_empty(cache: Cache | None) -> None:
    if cache is None or isinstance(cache, RaggedCache):
        return
    if type(cache) is not DynamicCache or cache.offloading:
        kind = type(cache).__name__
        raise ValueError(f"past_key_values: {kind} cannot hold layers of different lengths; use the default cache")
    if cache.get_seq_length():
        raise ValueError("past_key_values: this cache was filled without the reducer; start from the whole prompt")
