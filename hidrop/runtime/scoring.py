"""The auxiliary attention that methods score with: a few query rows of one layer, whatever kernel the model runs on.

Probabilities are a float32 softmax over all keys that the query may see (text and visual, causal, no padding),
averaged over the query heads. `rounded` scores are those of the released HiDrop and PDrop codes: logits are divided by
the root of the head size after the product, probabilities are rounded to the model's own type, and so are their means.
Only the query rows are computed, (B, H, Q, N). Means over many of them are made in blocks of queries, BLOCK_BYTES of
probabilities for each prompt at a time: a square of 16k tokens and 28 heads would be 28 GiB.
Shapes as in layout.py; H query heads, G key/value heads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn
from transformers.models.llama.modeling_llama import rotate_half

from hidrop.backbones.model_inputs import Rope
from hidrop.runtime.fsdp import within
from hidrop.runtime.layout import IGNORED, Layout, RowCuts
from hidrop.runtime.media_table import MediaTable

# Float32 probabilities of a block of queries, of one prompt: all of LLaVA-1.5's (32 heads, up to 1400 tokens) in one.
BLOCK_BYTES = 256 << 20


def rows(x_BN: torch.Tensor, index_BK: torch.Tensor) -> torch.Tensor:
    """Pick slots per row: x (B, N, ...), index (B, K) -> (B, K, ...). A filler (-1) picks slot 0."""
    batch, slots = x_BN.shape[:2]
    if batch == 1:  # the usual case of a prefill, with half of the small operations
        return x_BN.index_select(1, index_BK[0].clamp(min=0))
    flat = index_BK.clamp(min=0) + torch.arange(batch, device=x_BN.device)[:, None] * slots
    return x_BN.reshape(batch * slots, *x_BN.shape[2:]).index_select(0, flat.flatten()).unflatten(0, index_BK.shape)


def rotated(x_BHNd: torch.Tensor, cos_BNd: torch.Tensor, sin_BNd: torch.Tensor) -> torch.Tensor:
    """Queries or keys turned by rope; transformers' own function turns both at once."""
    return x_BHNd * cos_BNd[:, None] + rotate_half(x_BHNd) * sin_BNd[:, None]


@dataclass(frozen=True)
class Queries:
    """Slots whose attention is read, (B, Q), and their weights in the mean over queries (each row sums to one)."""

    slot_BQ: torch.Tensor
    weight_BQ: torch.Tensor


@dataclass(frozen=True)
class Prompt:
    """What a method may look at before the first layer: the decoder's input. Filler slots are marked not valid."""

    visual_BVD: torch.Tensor
    visual_valid_BV: torch.Tensor
    text_BTD: torch.Tensor
    text_ids_BT: torch.Tensor
    text_valid_BT: torch.Tensor
    # Unlabelled text after the last image of the row: the question with what follows it.
    question_BT: torch.Tensor
    # Where in its image or video each visual token is.
    media: MediaTable
    # Of a method that annotates: the numbers that its `encode` has put after the features. None without images.
    side_BVS: torch.Tensor | None = None
    # The model's, for a method that reads text.
    tokenizer: Any = None

    def questions(self) -> list[str]:
        """The question of each row as text, without special tokens. Waits for the device."""
        asked = zip(self.text_ids_BT.tolist(), self.question_BT.tolist(), strict=True)
        ids = [[number for number, own in zip(*row, strict=True) if own] for row in asked]
        return [self.tokenizer.decode(row, skip_special_tokens=True) for row in ids]

    def only(self, rank_BK: torch.Tensor) -> Prompt:
        """With these visual tokens alone, by their number among the row's; -1 gives a filler."""
        fillers_B1 = (~self.visual_valid_BV).sum(1, keepdim=True)
        there = rank_BK >= 0
        slot_BK = torch.where(there, rank_BK + fillers_B1, -1)
        return replace(
            self,
            visual_BVD=rows(self.visual_BVD, slot_BK),
            visual_valid_BV=there,
            media=self.media.only(slot_BK),
            side_BVS=None if self.side_BVS is None else rows(self.side_BVS, slot_BK),
        )


@dataclass(frozen=True)
class View:
    """What a method sees at a cut.

    `layer` (1-based) has just run: `input_BND` is what it got (None if no layer has seen the visual tokens yet),
    `hidden_BND` what came out. `visual_BV` and `text_BT` are slots in that sequence. `cut` holds, as host numbers,
    how many tokens of each row are there, are kept and are merged. Attention "next" hands `take_keys` what that layer's
    k_proj made of all tokens. `rope` gives cos and sin of the slots, (B, N, head), in a layer. `block_BN`: slots of one
    block see each other both ways (-1: none; None: all is causal). `final_norm` is the decoder's, before the LM head.
    """

    layer: int
    layers: SequenceOf[nn.Module]
    input_BND: torch.Tensor | None
    hidden_BND: torch.Tensor
    order_BN: torch.Tensor
    rope: Callable[[int], Rope]
    keys: torch.Tensor | None
    text_BT: torch.Tensor
    visual_BV: torch.Tensor
    queries: Queries
    cut: RowCuts
    layout: Layout
    memory: Any
    final_norm: Callable[[torch.Tensor], torch.Tensor]
    block_BN: torch.Tensor | None = None
    take_keys: Callable[[torch.Tensor], None] | None = None

    def detached(self) -> View:
        """The same without a gradient to what the layers before have made of the tokens."""
        before = None if self.input_BND is None else self.input_BND.detach()
        return replace(self, input_BND=before, hidden_BND=self.hidden_BND.detach())

    @property
    def valid_BV(self) -> torch.Tensor:
        """Which visual slots hold a token."""
        return self.order_BN.gather(1, self.visual_BV) >= 0

    @property
    def rank_BV(self) -> torch.Tensor:
        """Number of each visual token among the row's visual tokens at input, 0-based (-1: filler or merged)."""
        source = self.layout.sources(self.order_BN.gather(1, self.visual_BV))
        return torch.where(source >= 0, self.layout.rank_BS.gather(1, source.clamp(min=0)), -1)

    @property
    def visual_BVD(self) -> torch.Tensor:
        """The visual tokens as the layer left them."""
        return rows(self.hidden_BND, self.visual_BV)

    def text_queries(self, weight_BT: torch.Tensor) -> Queries:
        """All text slots as queries, with the given weights (0 where a text token has no say)."""
        return Queries(self.text_BT, weight_BT)

    def every_token(self) -> Queries:
        """All slots that hold no answer as queries, with equal weights. A square, (B, H, N, N), computed in blocks."""
        valid, labels = self.order_BN >= 0, self.layout.labels(self.order_BN)
        if labels is not None:
            valid = valid & (labels == IGNORED)
        slots = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
        return Queries(slots, valid.float() / valid.sum(1, keepdim=True))

    @property
    def asked_BT(self) -> torch.Tensor:
        """Which text slots hold a token that is no answer (has no label)."""
        order_BT = self.order_BN.gather(1, self.text_BT)
        labels = self.layout.labels(order_BT)
        return order_BT >= 0 if labels is None else (order_BT >= 0) & (labels == IGNORED)

    def text_by_norm(self) -> Queries:
        """All text slots that are no answer, weighted by the norm of their hidden states."""
        norm = torch.where(self.asked_BT, rows(self.hidden_BND, self.text_BT).float().norm(dim=-1), 0)
        return Queries(self.text_BT, norm / norm.sum(1, keepdim=True).clamp(min=1e-12))

    def attention(
        self, of: Literal["this", "next"], queries: Queries | None = None, *, rounded: bool = False
    ) -> torch.Tensor:
        """Attention probabilities of the query rows, (B, Q, N) float32, mean over heads. See `attention_by_head`.

        rounded: the probabilities are rounded to the states' own type before the mean, and the mean is of that type.
        """
        means = [seen_BQN for seen_BQN, _ in self._means(of, queries or self.queries, rounded=rounded)]
        return means[0] if len(means) == 1 else torch.cat(means, 1)

    def _means(
        self, of: Literal["this", "next"], queries: Queries, *, rounded: bool
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """`attention` in blocks of queries, (B, part of Q, N) each, and these queries' weights."""
        query, key = self._queries_and_keys(of, queries.slot_BQ)
        heads, length = query.shape[1] * query.shape[2], key.shape[2]
        size = max(1, BLOCK_BYTES // (4 * heads * length))
        blocks = query.split(size, 3), queries.slot_BQ.split(size, 1), queries.weight_BQ.split(size, 1)
        for part, slots, weight in zip(*blocks, strict=True):
            by_head = self._probabilities(of, part, key, slots, rounded=rounded)
            yield by_head.to(self.hidden_BND.dtype).mean(1).float() if rounded else by_head.mean(1), weight

    def attention_by_head(
        self, of: Literal["this", "next"], queries: Queries | None = None, *, rounded: bool = False
    ) -> torch.Tensor:
        """Attention probabilities of the query rows in each query head, (B, H, Q, N) float32.

        of="this": the attention that the layer really computed (its own input, norm and projections).
        of="next": what the next layer would compute if nothing were cut.
        rounded: scale the logits after the product, in the states' own type, as the released codes do.
        Raises ValueError for "this" before any layer has run on the visual tokens.
        """
        slots = (queries or self.queries).slot_BQ
        query, key = self._queries_and_keys(of, slots)
        return self._probabilities(of, query, key, slots, rounded=rounded)

    def _queries_and_keys(self, of: Literal["this", "next"], slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotated queries of these slots (B, G, H/G, Q, head), not scaled, and keys of all slots (B, G, N, head)."""
        layer: Any
        if of == "next":
            layer, states, keys = self.layers[self.layer], self.hidden_BND, None
        elif self.input_BND is None:
            raise ValueError(f"cut after layer {self.layer}: no layer has seen the visual tokens yet, nothing to read")
        else:
            layer, states, keys = self.layers[self.layer - 1], self.input_BND, self.keys
        attention: Any = layer.self_attn
        size = attention.head_dim
        cos, sin = self.rope(self.layer + (of == "next"))

        def heads(made: torch.Tensor, norm: str) -> torch.Tensor:
            split = made.unflatten(-1, (-1, size))
            return (getattr(attention, norm)(split) if hasattr(attention, norm) else split).to(cos.device)

        def projected(states_BND: torch.Tensor) -> list[torch.Tensor]:
            # A layer may be on another device than the sequence: what it gives comes back here.
            normed = layer.input_layernorm(states_BND).to(cos.device)
            if keys is not None:
                return [heads(attention.q_proj(normed), "q_norm")]
            made = attention.k_proj(normed)
            return [heads(attention.q_proj(rows(normed, slots)), "q_norm"), heads(made, "k_norm"), made.to(cos.device)]

        made = within(layer, projected, states if keys is None else rows(states, slots))
        if of == "next" and self.take_keys is not None:
            self.take_keys(made[2])
        query, *new = (x.transpose(1, 2) for x in made[:2])
        query = rotated(query, rows(cos, slots), rows(sin, slots))
        key = rotated(new[0], cos, sin) if keys is None else keys.to(cos.device)
        return query.unflatten(1, (key.shape[1], -1)), key

    def used_keys(self) -> torch.Tensor:
        """The keys of the layer that has run as its attention used them, after norm and rope, (B, G, N, head).

        Raises ValueError before any layer has run on the visual tokens.
        """
        return self._queries_and_keys("this", self.queries.slot_BQ[:, :1])[1]

    def _probabilities(
        self,
        of: Literal["this", "next"],
        query: torch.Tensor,
        key: torch.Tensor,
        slots: torch.Tensor,
        *,
        rounded: bool,
    ) -> torch.Tensor:
        """See `attention_by_head`, of the queries and keys that `_queries_and_keys` gives."""
        attention: Any = self.layers[self.layer - (of == "this")].self_attn
        query = query if rounded else query * attention.scaling
        logits = query @ key[:, :, None].transpose(-1, -2)
        logits = (logits / (1 / attention.scaling) if rounded else logits).float()
        seen = torch.arange(self.order_BN.shape[1], device=slots.device) <= slots[:, :, None]
        if self.block_BN is not None:
            block_BQ = self.block_BN.gather(1, slots)
            seen = seen | ((self.block_BN[:, None] == block_BQ[:, :, None]) & (block_BQ >= 0)[:, :, None])
        seen = seen & (self.order_BN >= 0)[:, None]
        logits = logits.masked_fill(~seen[:, None, None], torch.finfo(logits.dtype).min)
        return logits.softmax(-1).flatten(1, 2)

    def rope_bias(self, queries: Queries) -> torch.Tensor:
        """What rope alone gives a query on each key, (B, Q, N): 2 sum_i cos(D theta_i) / sqrt(head size).

        D is the distance of their positions. It is the scaled dot product of two vectors of ones, each rotated.
        """
        cos, sin = (x.float() for x in self.rope(self.layer))
        near = rows(cos, queries.slot_BQ) @ cos.transpose(1, 2) + rows(sin, queries.slot_BQ) @ sin.transpose(1, 2)
        return near * cos.shape[-1] ** -0.5

    def on_visual(self, seen_BQN: torch.Tensor) -> torch.Tensor:
        """Of numbers for all slots, (B, Q, N), those of the visual ones, (B, Q, V)."""
        return seen_BQN.gather(2, self.visual_BV[:, None].expand(-1, seen_BQN.shape[1], -1))

    def attention_to_visual(
        self, of: Literal["this", "next"], queries: Queries | None = None, *, rounded: bool = False
    ) -> torch.Tensor:
        """Weighted mean over the queries of the attention that each visual token gets, (B, V) float32.

        rounded: all means are rounded to the states' own type. See `attention`.
        """
        blocks = self._means(of, queries or self.queries, rounded=rounded)
        mean_BN = functools.reduce(torch.add, ((seen * weight[:, :, None]).sum(1) for seen, weight in blocks))
        mean_BN = mean_BN.to(self.hidden_BND.dtype).float() if rounded else mean_BN
        return mean_BN.gather(1, self.visual_BV)
