"""The one way through the decoder: inject, cut, exit; prefill, training and decoding.

The sequence in a layer is the text plus the visual tokens that are there just then, in the order of the prompt.
Between changes a run of layers shares one sequence, one mask and one set of positions. All shapes are known on the
host, and nothing in here waits for the device. Shapes as in layout.py; D hidden size, K kept, M merged tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from hidrop.backbones.base import Backbone
from hidrop.backbones.model_inputs import Rope
from hidrop.cache_name import cache_name
from hidrop.reducer import Mixture, Reducer
from hidrop.runtime.cache import RaggedCache, Segment
from hidrop.runtime.layout import ROOM, BatchPlan, Layout, RowCuts, answer_starts, segments
from hidrop.runtime.precomputed_keys import Projected
from hidrop.runtime.scoring import Queries, View, rows
from hidrop.runtime.sequence import Sequence, Tokens
from hidrop.runtime.trace import Record
from hidrop.topk import keep_top, marked, soft_mask


@dataclass(frozen=True)
class Prefill:
    """What stays the same on the way through the layers.

    `rope`: (cos, sin), (B, S, head), of each place of the input; of each number 0 .. S - 1 where the method renumbers.
    `entered_BN`: where tokens keep the numbers that they had after the cuts on their way in, their order then.
    `unmasked`: the attention kernel needs no mask for sequences without fillers.
    """

    layout: Layout
    rope: Rope
    cache: RaggedCache | None
    memory: Any
    entered_BN: torch.Tensor | None = None
    unmasked: bool = False

    def numbers(self, order_BN: torch.Tensor) -> torch.Tensor:
        """The number of each slot where the method renumbers, (B, N); that of a merged token is the one before it."""
        if self.entered_BN is None:
            return ((order_BN >= 0).long().cumsum(1) - 1).clamp(min=0)
        place = torch.searchsorted(self.entered_BN, order_BN.contiguous(), right=True) - 1
        return (place - (self.entered_BN < 0).sum(1, keepdim=True)).clamp(min=0)


class Decoder:
    """A backbone's decoder, run with a reducer. `layers` are 1-based in everything that is public."""

    def __init__(self, backbone: Backbone, reducer: Reducer) -> None:
        self.backbone, self.model = backbone, backbone.decoder
        self.reducer = reducer
        self.layers = self.model.layers[: self.model.config.num_hidden_layers]
        self.persistent = reducer.positions not in ("compacted", "entry")

    def prefill(
        self,
        text: Tokens,
        visual: Callable[[], Tokens],
        layout: Layout,
        plan: BatchPlan,
        cache: RaggedCache | None,
        memory: Any,
    ) -> tuple[Sequence, Record]:
        """Run the prompt (or a training batch) through all layers, filling an empty `cache`.

        `visual` is asked for the visual tokens when they enter, which may be after some layers.
        Returns the sequence as it leaves the last layer, before the final norm, and what was counted on the way.
        """
        record, run = Record(layout), self.begin(text, layout, cache, memory)
        sequence = self.placed(Sequence(text, visual() if plan.inject == 1 else None), run)
        before: torch.Tensor | None = None
        for first, last in segments(plan, len(self.layers)):
            if first == plan.inject and first > 1:
                sequence, before = self.placed(Sequence(sequence.part(sequence.text), visual()), run), None
            for place in plan.after(first - 1):
                sequence, plan = self._cut(sequence, before, plan, place, run, record)
            if first == plan.inject and self.reducer.positions == "entry":
                run = replace(run, entered_BN=sequence.order)
            if first == plan.exit:
                sequence = self.placed(sequence.keeping(sequence.visual[:, :0]), run)
            there = [p.entering[first - 1] + t for p, t in zip(plan.plans, layout.text_counts, strict=True)]
            padded = min(there) < sequence.order.shape[1]
            record.count(sequence.order, padded, last - first + 1)
            before = self.through(sequence, first, last, run, padded=padded)
        record.close(plan.plans, cache)
        return sequence, record

    def begin(self, text: Tokens, layout: Layout, cache: RaggedCache | None, memory: Any = None) -> Prefill:
        """What stays the same on the way of these prompts through the layers."""
        device, position_PBS = text.hidden.device, layout.position_PBS
        if not self.persistent:
            position_PBS = torch.arange(layout.length, device=device).expand(1, len(text.order), -1)
        cos, sin = self.backbone.rope(text.hidden, position_PBS)
        rope = cos.to(device), sin.to(device)
        return Prefill(layout, rope, cache, memory, unmasked=self._unmasked(text.hidden))

    def _unmasked(self, hidden_BND: torch.Tensor) -> bool:
        """Whether the attention kernel needs no mask for a plainly causal sequence without fillers.

        It is asked once for a prefill or a decoded token: transformers takes about 0.1 ms to answer, and a method with
        several cuts has as many lengths.
        """
        return self.backbone.mask(hidden_BND[:, :1], None, None, 1) is None

    def through(self, sequence: Sequence, first: int, last: int, run: Prefill, *, padded: bool) -> torch.Tensor:
        """The sequence through these layers, in place. `padded`: there are fillers in it.

        Returns what entered the last one.
        """
        device, cache = sequence.hidden.device, run.cache
        valid_BN = sequence.order >= 0 if padded else None
        if cache is not None:
            numbered = sequence.order if run.entered_BN is None else run.entered_BN
            following = run.layout.next_B if self.persistent else (numbered >= 0).sum(1)
            cache.segments.append(Segment(first, last, valid_BN, following))
        block_BN = run.layout.blocks(sequence.order)
        mask, before = None, sequence.hidden
        if not (run.unmasked and valid_BN is None and block_BN is None):
            mask = self.backbone.mask(sequence.hidden, valid_BN, cache, first, block_BN)
        for layer in range(first, last + 1):
            before = sequence.hidden
            with sequence.entering(self.layers[layer - 1]):
                sequence.hidden = self._layer(layer, sequence.hidden, mask, sequence.rope, cache)
            sequence.entered()
        # The layers of a large model may be on several devices: its sequence is put together on the first one.
        sequence.hidden = sequence.hidden.to(device)
        return before.to(device)

    def ahead(self, visual: Tokens, layer: int) -> Tokens:
        """Visual tokens with their keys and values in the layer that they will enter; as they are on another device."""
        entered = self.layers[layer - 1]
        if entered.self_attn.k_proj.weight.device != visual.hidden.device:
            return visual
        return replace(visual, projected=Projected.of(entered, visual.hidden))

    def step(self, hidden_BQD: torch.Tensor, valid_BQ: torch.Tensor | None, cache: RaggedCache) -> torch.Tensor:
        """Run text that follows what the cache holds: one token in decoding, more in a next turn.

        `valid_BQ` None: no padding. Returns the hidden states before the final norm.
        """
        batch, count = hidden_BQD.shape[:2]
        offset = torch.arange(count, device=hidden_BQD.device)
        if valid_BQ is not None:
            offset = (valid_BQ.long().cumsum(1) - 1).clamp(min=0)
        places = []
        unmasked = count == 1 and self._unmasked(hidden_BQD)
        for segment in cache.segments:
            position_BQ = segment.next_B[:, None] + offset
            segment.append(valid_BQ, cache.get_seq_length(segment.first - 1), batch, count)
            mask = None
            if not (unmasked and segment.valid_BN is None):
                mask = self.backbone.mask(hidden_BQD, segment.valid_BN, cache, segment.first)
            places.append((segment, position_BQ, mask))
        cache.input_length += count
        return self.decode(hidden_BQD, places, cache)

    def decode(
        self, hidden_BQD: torch.Tensor, places: Iterable[tuple[Segment, torch.Tensor, torch.Tensor | None]], cache: Any
    ) -> torch.Tensor:
        """New tokens through all layers; `places`: each segment with their positions (B, Q) and their mask in it."""
        rope = None
        for segment, position_BQ, mask in places:
            if rope is None or not self.persistent:
                rope = self.backbone.rope(hidden_BQD, position_BQ[None])
            for layer in range(segment.first, segment.last + 1):
                hidden_BQD = self._layer(layer, hidden_BQD, mask, rope, cache)
        return hidden_BQD

    def _layer(
        self,
        layer: int,
        hidden: torch.Tensor,
        mask: torch.Tensor | None,
        rope: Rope,
        cache: RaggedCache | None,
    ) -> torch.Tensor:
        # No position_ids: flash attention would take gaps in them for packed sequences.
        return self.layers[layer - 1](
            hidden,
            attention_mask=mask,
            position_embeddings=self.backbone.layer_rope(rope, layer),
            use_cache=cache is not None,
            **{cache_name(): cache},
        )

    def placed(self, sequence: Sequence, run: Prefill) -> Sequence:
        """The sequence with the positions that the method gives its tokens."""
        index = run.layout.places(sequence.order) if self.persistent else run.numbers(sequence.order)
        cos, sin = run.rope
        sequence.rope = rows(cos, index), rows(sin, index)
        return sequence

    def _cut(
        self,
        sequence: Sequence,
        before: torch.Tensor | None,
        plan: BatchPlan,
        place: int,
        run: Prefill,
        record: Record,
    ) -> tuple[Sequence, BatchPlan]:
        """Score the visual tokens, keep the best in their order, append merged ones to them.

        Returns the plan as well, which an adaptive method has changed. Raises ValueError for a score that has
        another shape or type than (B, V) float32.
        """
        order_BV, cut = sequence.order.gather(1, sequence.visual), plan.cuts[place]
        after = cut.after
        soft = self.reducer.topk != "released" and self.model.training and torch.is_grad_enabled()
        view = self.view(sequence, before, cut, run)
        if self._hands_over(sequence, after):
            view = replace(view, take_keys=lambda keys_BN: setattr(sequence, "keys", keys_BN))
        # A cut on the way in looks at the layer that comes next.
        with torch.set_grad_enabled(soft), sequence.entering(self.next_layer(after)):
            if self.reducer.adaptive:
                score, counts = self.reducer.choose(view)
                plan = plan.chosen(place, counts)
                cut = plan.cuts[place]
                view = replace(view, cut=cut)
            else:
                score = self.reducer.score(view.detached() if soft else view)
        if not isinstance(score, torch.Tensor) or score.shape != order_BV.shape:
            given = tuple(score.shape) if isinstance(score, torch.Tensor) else type(score).__name__
            raise ValueError(f"{self.reducer.name}: score gave {given} for {tuple(order_BV.shape)} visual slots")
        if score.dtype != torch.float32:
            kind = str(score.dtype).removeprefix("torch.")
            raise ValueError(
                f"{self.reducer.name}: score gave {kind}, not float32. Start from view.visual_BVD.float(): scores "
                "that are rounded to the type of a half-precision model are often equal"
            )
        there_BV = order_BV >= 0
        index = keep_top(score.detach(), there_BV, cut.keep_B, cut.keep)
        record.cut(after, order_BV, index)
        if not soft and not cut.merge:
            return self.placed(sequence.keeping(index), run), plan
        left = sequence.visual_part(index)
        if soft:
            gate = rows(soft_mask(score, there_BV, cut.keep_B), index)[:, :, None].to(left.hidden.dtype)
            gate = gate if self.reducer.topk == "soft-gate" else 1 + (gate - gate.detach())
            left = replace(left, hidden=left.hidden * gate)
        if cut.merge:
            mixture = self.reducer.merge(view, score, marked(index, order_BV.shape[1]), cut.merge)
            self._check_mixture(mixture, cut)
            hidden, *levels = (mixture.of(states) for states in (view.visual_BVD, *sequence.levels))
            order_BM = self._merged_order(order_BV, run.layout, cut, mixture.at_BM)
            left = Tokens(hidden, order_BM, levels=tuple(levels)).after(left)
        return self.placed(Sequence(sequence.part(sequence.text), left), run), plan

    def _check_mixture(self, mixture: Mixture, cut: RowCuts) -> None:
        """Raises ValueError for another number of merged tokens than the plan's."""
        shapes = {"total_BM": mixture.total_BM.shape, "weight_BMC": mixture.weight_BMC.shape[:2]}
        if mixture.at_BM is not None:
            shapes["at_BM"] = mixture.at_BM.shape
        wanted = len(cut.rows), cut.merge
        for name, shape in shapes.items():
            if tuple(shape) != wanted:
                raise ValueError(
                    f"{self.reducer.name}: merge gave {name} for {tuple(shape)} (rows, tokens), not {wanted}: `count` "
                    "says how many tokens each row needs, in a batch and with several images"
                )

    def next_layer(self, after: int) -> Any:
        """The layer after a cut (the last layer itself if the cut is after it)."""
        return self.layers[min(after, len(self.layers) - 1)]

    def _hands_over(self, sequence: Sequence, after: int) -> bool:
        """Whether the layer after a cut can take the keys that a score has made, since they are its own."""
        if torch.is_grad_enabled() or sequence.projected is not None or after == len(self.layers):
            return False  # scores may be without a gradient
        return bool(self.next_layer(after).self_attn.k_proj.weight.device == sequence.hidden.device)

    def view(self, sequence: Sequence, before: torch.Tensor | None, cut: RowCuts, run: Prefill) -> View:
        """The sequence after layer `cut.after`, as methods see it. `before`: what that layer got."""
        return View(
            layer=cut.after,
            layers=self.layers,
            input_BND=before,
            hidden_BND=sequence.hidden,
            order_BN=sequence.order,
            rope=partial(self.backbone.layer_rope, sequence.rope),
            keys=None if run.cache is None or before is None else run.cache.layers[cut.after - 1].keys,
            text_BT=sequence.text,
            visual_BV=sequence.visual,
            queries=self._queries(sequence, run.layout),
            cut=cut,
            layout=run.layout,
            memory=run.memory,
            final_norm=self.final_norm,
            block_BN=run.layout.blocks(sequence.order),
        )

    def final_norm(self, states: torch.Tensor) -> torch.Tensor:
        """The norm before the LM head, on states of any layer; the result is on their device."""
        return self.model.norm(states).to(states.device)

    @staticmethod
    def _merged_order(
        order_BV: torch.Tensor, layout: Layout, cut: RowCuts, at_BM: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Order numbers (B, M) right after the slots `at_BM`; by default after the row's visual tokens, those merged at
        earlier cuts included."""
        number = torch.arange(cut.merge, device=order_BV.device)
        if at_BM is None:
            last = torch.maximum(order_BV.max(dim=1).values, layout.visual_BV[:, -1] * ROOM)
            order_BM = last[:, None] + 1 + number
        else:
            order_BM = order_BV.gather(1, at_BM) + 1
        return torch.where(number < cut.merge_B[:, None], order_BM, -1)

    @staticmethod
    def _queries(sequence: Sequence, layout: Layout) -> Queries:
        """The last token of each row; with labels, every token directly before an answer."""
        labels = layout.labels(sequence.order)
        if labels is not None:
            return Queries(*answer_starts(labels, sequence.order, layout.answers))
        slot = torch.full_like(sequence.order[:, :1], sequence.order.shape[1] - 1)
        return Queries(slot, torch.ones_like(slot, dtype=torch.float32))
