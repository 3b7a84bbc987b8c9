"""Where everything is in a padded batch of prompts, worked out once per prefill, before the first layer.

This is the only place that waits for the device (one small transfer): from here on every shape is known on the host,
so the loop over layers runs without a synchronisation.

Shapes: B batch, S input length, T text slots (the most text tokens of a row), V visual slots (the most visual tokens
of a row), N slots of the sequence in a layer, Q queries. A row with fewer tokens than slots has fillers, written -1;
they are at the left, so that the last slot is always a row's last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import torch

from hidrop.backbones.model_inputs import TEXT, VIDEO, Places, numbered
from hidrop.geometry import Geometry
from hidrop.plan import Cut, Schedule, TokenPlan
from hidrop.runtime.media_table import MediaTable

IGNORED = -100
# An `order` number is place * ROOM for a token of the input and place * ROOM + i for merged tokens put after it.
ROOM = 1 << 16


@dataclass(frozen=True)
class Layout:
    """Places of text and visual tokens in the input, and the numbers derived from them.

    `feature_BV`: number of each visual token among the features of the batch. `block_BS`: number of the image that a
    place belongs to, -1 for text, where the tokens of one image see each other both ways. `media_counts`: visual tokens
    of each image and video of each row, where a method works on each of them by itself.
    """

    text_BT: torch.Tensor
    visual_BV: torch.Tensor
    position_PBS: torch.Tensor
    rank_BS: torch.Tensor
    feature_BV: torch.Tensor
    next_B: torch.Tensor
    label_BS: torch.Tensor | None
    text_counts: tuple[int, ...]
    visual_counts: tuple[int, ...]
    video_counts: tuple[int, ...]
    answers: int
    media_counts: tuple[tuple[int, ...], ...] | None = None
    block_BS: torch.Tensor | None = None
    media: MediaTable | None = None

    @property
    def length(self) -> int:
        """Places of the input, padding included."""
        return self.rank_BS.shape[1]

    @property
    def text_slots(self) -> int:
        return self.text_BT.shape[1]

    @property
    def text_padded(self) -> bool:
        return min(self.text_counts) < self.text_slots

    @staticmethod
    def places(order_BN: torch.Tensor) -> torch.Tensor:
        """The place in the input whose RoPE position a slot has. A merged token has that of the token before it."""
        return order_BN.clamp(min=0) // ROOM

    def sources(self, order_BN: torch.Tensor) -> torch.Tensor:
        """Place in the input of each slot; -1 for fillers and merged tokens."""
        return torch.where(order_BN % ROOM == 0, order_BN // ROOM, -1)

    def blocks(self, order_BN: torch.Tensor) -> torch.Tensor | None:
        """The block of each slot, see `block_BS`; a merged token belongs to that of the token before it."""
        if self.block_BS is None:
            return None
        return torch.where(order_BN >= 0, self.block_BS.gather(1, self.places(order_BN)), -1)

    def labels(self, order_BN: torch.Tensor) -> torch.Tensor | None:
        """Label of each slot, -100 for everything that is not labelled text. None without labels."""
        if self.label_BS is None:
            return None
        source = self.sources(order_BN)
        return torch.where(source >= 0, self.label_BS.gather(1, source.clamp(min=0)), IGNORED)


def read(
    valid: torch.Tensor,
    kind_BS: torch.Tensor,
    places: Places,
    labels: torch.Tensor | None = None,
    *,
    multiple: int = 1,
    both_ways: bool = False,
) -> Layout:
    """Lay out a batch of prompts, padded left or right. `valid` (B, S): no padding; `kind_BS`: TEXT, IMAGE or VIDEO.

    `places`: the RoPE position of each place. `multiple`: text slots are filled up to a multiple of this number.
    `both_ways`: tokens of one image see each other both ways. Raises ValueError for a prompt without any text.
    """
    kind_BS = torch.where(valid, kind_BS, TEXT)
    visual = kind_BS != TEXT
    text = valid & ~visual
    counts = [text.sum(1), visual.sum(1), (kind_BS == VIDEO).sum(1)]
    if labels is not None:
        labels = torch.where(text, labels, IGNORED)
        counts.append(_starts(labels).sum(1))
    text_counts, visual_counts, video_counts, *spans = torch.stack(counts).tolist()  # the one wait for the device
    if min(text_counts) == 0:
        raise ValueError("a prompt needs at least one token of text")
    rank_BS = visual.long().cumsum(1) - 1
    visual_BV = _places(visual, max(visual_counts))
    feature_BV = numbered(kind_BS).gather(1, visual_BV.clamp(min=0))
    return Layout(
        text_BT=_places(text, -(-max(text_counts) // multiple) * multiple),
        visual_BV=visual_BV,
        position_PBS=places.position_PBS,
        rank_BS=rank_BS,
        feature_BV=torch.where(visual_BV >= 0, feature_BV, -1),
        next_B=places.next_B,
        label_BS=labels,
        text_counts=tuple(text_counts),
        visual_counts=tuple(visual_counts),
        video_counts=tuple(video_counts),
        answers=max([1, *(spans[0] if spans else [])]),
        block_BS=_blocks(visual) if both_ways else None,
    )


def _blocks(visual: torch.Tensor) -> torch.Tensor:
    """The number of the run of visual places that a place is in, (B, S); -1 for text."""
    before = torch.nn.functional.pad(visual[:, :-1], (1, 0))
    return torch.where(visual, (visual & ~before).long().cumsum(1) - 1, -1)


def valid_places(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Which places hold a token, (B, S) bool. Raises ValueError for a mask of another shape."""
    if attention_mask is None:
        return torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask: shape {tuple(attention_mask.shape)} does not match input_ids {tuple(input_ids.shape)}; "
            "a reduced model takes the padding mask, (batch, tokens), and builds the rest itself"
        )
    return attention_mask.bool()


def grouped_places(valid: torch.Tensor, visual: torch.Tensor) -> Places:
    """Positions of the scheme `group`: visual tokens 0, 1, ..., then all text after them, whatever their order."""
    image, text = valid & visual, valid & ~visual
    after = image.sum(1, keepdim=True) + text.long().cumsum(1) - 1
    position_BS = torch.where(image, image.long().cumsum(1) - 1, after)
    return Places(position_BS.clamp(min=0)[None], valid.sum(1))


def _places(flags: torch.Tensor, slots: int) -> torch.Tensor:
    """Places of the set flags in ascending order, (B, slots), fillers -1 at the left."""
    place = torch.arange(flags.shape[1], device=flags.device)
    return torch.where(flags, place, -1).sort(dim=1).values[:, flags.shape[1] - slots :]


def _starts(label_BN: torch.Tensor) -> torch.Tensor:
    """Slots directly before an answer: no label here, a label on the next one. (B, N - 1)."""
    return (label_BN[:, :-1] == IGNORED) & (label_BN[:, 1:] != IGNORED)


def answer_starts(label_BN: torch.Tensor, order_BN: torch.Tensor, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The queries of training: every slot directly before an answer, and their weights (mean over a row's answers).

    Returns slots (B, slots) and weights (B, slots). A row without an answer has its last token as only query.
    """
    starts = _starts(label_BN) & (order_BN[:, :-1] >= 0)
    slot = _places(starts, min(slots, starts.shape[1]))
    count = (slot >= 0).sum(1, keepdim=True)
    weight = (slot >= 0).float() / count.clamp(min=1)
    weight[:, -1:] = torch.where(count == 0, 1.0, weight[:, -1:])
    slot = torch.where(slot < 0, label_BN.shape[1] - 1, slot)
    return slot, weight


@dataclass(frozen=True)
class RowCuts:
    """One cut of the schedule, for a batch whose rows hold different numbers of visual tokens.

    `place`: its number among the schedule's cuts, from 0 on.
    """

    after: int
    rows: tuple[Cut, ...]
    there: tuple[int, ...]
    keep_B: torch.Tensor
    merge_B: torch.Tensor
    place: int = 0

    @classmethod
    def none(cls, after: int, counts: tuple[int, ...], device: torch.device) -> RowCuts:
        """The cut that leaves all of each row's `counts` tokens."""
        keep = torch.tensor(counts, device=device)
        return cls(after, tuple(Cut(after, n) for n in counts), counts, keep, torch.zeros_like(keep))

    @property
    def keep(self) -> int:
        return max(cut.keep for cut in self.rows)

    @property
    def merge(self) -> int:
        return max(cut.merge for cut in self.rows)


@dataclass(frozen=True)
class BatchPlan:
    """The schedule of each row (scaled to its own number of visual tokens), merged into one for the batch."""

    inject: int
    exit: int
    cuts: tuple[RowCuts, ...]
    plans: tuple[TokenPlan, ...]
    rows: tuple[Schedule, ...]

    @classmethod
    def of(cls, rows: tuple[Schedule, ...], geometries: tuple[Geometry, ...], device: torch.device) -> BatchPlan:
        """From schedules that differ in their counts only. Raises ValueError when one does not fit its row."""
        counts = tuple(geometry.visual_tokens for geometry in geometries)
        by_row = {pair: pair[0].plan(pair[1]) for pair in set(zip(rows, geometries, strict=True))}
        plans = tuple(by_row[pair] for pair in zip(rows, geometries, strict=True))
        end = geometries[0].layers + 1
        if max(counts) == 0:
            return cls(end, end, (), plans, rows)
        there, cuts = counts, list[RowCuts]()
        for place, cut in enumerate(zip(*(row.cuts for row in rows), strict=True)):
            keep, merge = (torch.tensor(n, device=device) for n in zip(*((c.keep, c.merge) for c in cut), strict=True))
            cuts.append(RowCuts(cut[0].after, cut, there, keep, merge, place))
            there = tuple(one.left for one in cut)
        return cls(rows[0].inject, rows[0].exit or end, tuple(cuts), plans, rows)

    def after(self, layer: int) -> list[int]:
        """The numbers of the cuts after `layer`."""
        return [cut.place for cut in self.cuts if cut.after == layer]

    def chosen(self, place: int, cuts: tuple[Cut, ...]) -> BatchPlan:
        """With `cuts`, one for each row, as the cut number `place`. Raises ValueError like `of`."""
        rows = tuple(row.chosen(place, cut) for row, cut in zip(self.rows, cuts, strict=True))
        return self.of(rows, tuple(plan.geometry for plan in self.plans), self.cuts[place].keep_B.device)

    @property
    def entering(self) -> tuple[int, ...]:
        """Visual slots in each layer: the most of any row."""
        return tuple(max(column) for column in zip(*(plan.entering for plan in self.plans), strict=True))


def plan_batch(base: Schedule, geometry: Geometry, layout: Layout) -> BatchPlan:
    """What happens where for this batch, by a schedule for `geometry.visual_tokens`, scaled to each row (or medium).

    Raises ValueError when it does not fit a row.
    """
    counts = layout.visual_counts
    geometries = tuple(geometry.with_visual_tokens(count) for count in counts)
    if layout.media_counts is not None:
        rows = tuple(base.scaled_each(geometry, media) for media in layout.media_counts)
    else:
        scaled = {count: base.scaled(geometry, count) for count in set(counts)}
        rows = tuple(scaled[count] for count in counts)
    return BatchPlan.of(rows, geometries, layout.text_BT.device)


def media_by_row(layout: Layout, images: Sequence[int], videos: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Of the visual tokens of each image and each video of a batch, those of each row; images before videos.

    Raises ValueError for a row whose placeholders end within an image or a video.
    """
    image_counts = [count - video for count, video in zip(layout.visual_counts, layout.video_counts, strict=True)]
    rows: list[tuple[int, ...]] = [()] * len(image_counts)
    for wanted, sizes in ((image_counts, images), (layout.video_counts, videos)):
        left = iter(sizes)
        rows = [(*row, *islice(left, n)) for row, n in zip(rows, media_in_rows(wanted, sizes), strict=True)]
    return tuple(rows)


def media_in_rows(wanted: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """The number of media of each row. `wanted`: visual tokens of each row; `sizes`: those of each medium, in order.

    Raises ValueError for a row whose placeholders end within a medium.
    """
    counts, first = list[int](), 0
    for tokens in wanted:
        last, found = first, 0
        while last < len(sizes) and found < tokens:
            found, last = found + sizes[last], last + 1
        if found != tokens:
            raise ValueError(
                f"a prompt of the batch holds {tokens} image or video tokens, but its media have {found}: give each "
                "prompt the placeholders of whole images, and truncate none"
            )
        counts.append(last - first)
        first = last
    return counts


def segments(plan: BatchPlan, layers: int) -> list[tuple[int, int]]:
    """Runs of layers (first, last; 1-based, both included) that see one and the same sequence."""
    starts = {1, plan.inject, plan.exit, *(cut.after + 1 for cut in plan.cuts)}
    return [(a, b - 1) for a, b in pairwise(sorted({s for s in starts if s <= layers} | {layers + 1}))]
