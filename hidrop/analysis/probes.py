"""What one walk through the unreduced model measures in each layer, for each sample of the batch.

Definitions and names are those of the HiDrop paper (sections on layer roles): intra-modal and cross-modal similarity,
and ILVAS. Attention is that of the last prompt token, as in the method's score: float32 softmax over all keys it sees.
Shapes as in runtime/layout.py; L layers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from hidrop.analysis.curves import MODALITIES
from hidrop.analysis.walk import Walk
from hidrop.runtime.layout import ROOM
from hidrop.runtime.scoring import rows
from hidrop.runtime.sequence import Sequence
from hidrop.topk import top_indices


@dataclass
class ProbeResults:
    """Numbers of a batch, (B, layers) in each curve; NaN where a row has no such token.

    intra: by modality, the cosine of a token's states after layers l and l + 1, l = 1 .. L - 1, mean over its tokens.
    mass: the visual tokens' share of the last token's attention in layers 1 .. L.
    ilvas: by window n, ILVAS(l, l + n) for l = 1 .. L - n.
    top: for each row and layer, the most attended visual tokens, best first, as numbers among the row's visual tokens.
    """

    intra: dict[str, torch.Tensor] = field(default_factory=dict)
    mass: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    ilvas: dict[int, torch.Tensor] = field(default_factory=dict)
    top: list[list[list[int]]] = field(default_factory=list)


def measure(
    walk: Walk,
    *,
    top: float,
    windows: SequenceOf[int],
    at: Callable[[int, Sequence], None] = lambda layer, sequence: None,
) -> ProbeResults:
    """Walk to the end. `top`: the share of the visual tokens that counts as most attended. `windows`: n of ILVAS.

    `at` is called at every layer, for branches.
    """
    counts = torch.tensor(walk.layout.visual_counts, device=walk.layout.text_BT.device)
    keep_B = (counts * top).round().long().clamp(min=1)
    layers = len(walk.decoder.layers)
    intra: dict[str, list[torch.Tensor]] = {name: [] for name in MODALITIES}
    mass, ilvas = list[torch.Tensor](), {n: list[torch.Tensor]() for n in windows if n < layers}
    best: list[list[list[int]]] = [[] for _ in counts]
    recent: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=max(ilvas, default=0) + 1)
    before: torch.Tensor | None = None
    members: dict[str, torch.Tensor] = {}
    for layer, sequence in walk.stations():
        if layer == 1:
            members = modalities(sequence)
        else:  # these are the states after layer - 1
            if before is not None:
                for name, member_BN in members.items():
                    intra[name].append(mean_cosine(before, sequence.hidden, member_BN))
            before = sequence.hidden
        if layer <= layers:
            seen_BHV = walk.attention(layer, sequence)
            mass.append(seen_BHV.mean(1).sum(1))
            index_BK = most_attended(seen_BHV, sequence, keep_B)
            for row, ranks in enumerate(_ranks(walk, sequence, index_BK)):
                best[row].append(ranks)
            recent.append((seen_BHV, index_BK))
            for n, found in ilvas.items():
                if len(recent) > n:
                    found.append(alike(*recent[-1 - n], seen_BHV))
        at(layer, sequence)
    return ProbeResults(
        {name: torch.stack(found, 1) for name, found in intra.items()},
        torch.stack(mass, 1),
        {n: torch.stack(found, 1) for n, found in ilvas.items()},
        best,
    )


def cross_modal(one: Walk, other: Walk) -> torch.Tensor:
    """Mean cosine of the instruction's states after layers 1 .. L in two walks of the same prompts with different
    images, (B, L). The instruction is all text after the last visual token. The images may differ in their tokens, and
    in the text between their tiles."""
    found = []
    # Both texts end with the instruction, and fillers are at the left.
    slots = min(one.layout.text_slots, other.layout.text_slots)
    for (layer, here), (_, there) in zip(one.stations(), other.stations(), strict=True):
        sides = [(sequence, sequence.text[:, -slots:]) for sequence in (here, there)]
        if layer == 1:
            asked_BT = torch.stack([s.order.gather(1, text) > _last_visual(s) for s, text in sides]).all(0)
        else:
            a, b = (rows(sequence.hidden, text) for sequence, text in sides)
            found.append(mean_cosine(a, b, asked_BT))
    return torch.stack(found, 1)


def modalities(sequence: Sequence) -> dict[str, torch.Tensor]:
    """Which slots hold tokens of each modality, (B, N). Text before the first visual token is the system's."""
    order_BN = sequence.order
    visual_BV = order_BN.gather(1, sequence.visual)
    first = torch.where(visual_BV >= 0, visual_BV, torch.iinfo(order_BN.dtype).max).min(1, keepdim=True).values
    visual_BN = torch.zeros_like(order_BN, dtype=torch.bool).scatter(1, sequence.visual, True)
    there = order_BN >= 0
    return {
        "system": there & ~visual_BN & (order_BN < first),
        "visual": there & visual_BN,
        "text": there & ~visual_BN & (order_BN >= first),
    }


def _last_visual(sequence: Sequence) -> torch.Tensor:
    return sequence.order.gather(1, sequence.visual).max(1, keepdim=True).values


def mean_cosine(a_BND: torch.Tensor, b_BND: torch.Tensor, member_BN: torch.Tensor) -> torch.Tensor:
    """Mean over the member tokens of the cosine of two states, (B,). NaN for rows without members."""
    cosine = F.cosine_similarity(a_BND.float(), b_BND.float(), dim=-1)
    count = member_BN.sum(1)
    return torch.where(count > 0, torch.where(member_BN, cosine, 0).sum(1) / count.clamp(min=1), torch.nan)


def most_attended(seen_BHV: torch.Tensor, sequence: Sequence, keep_B: torch.Tensor) -> torch.Tensor:
    """Visual slots of the `keep_B` tokens with the highest mean over heads: indices (B, K), -1 for fillers."""
    there = sequence.order.gather(1, sequence.visual) >= 0
    slots = int(keep_B.max())
    best = top_indices(seen_BHV.mean(1), there, slots)
    return torch.where(torch.arange(slots, device=best.device) < keep_B[:, None], best, -1)


def alike(early_BHV: torch.Tensor, index_BK: torch.Tensor, late_BHV: torch.Tensor) -> torch.Tensor:
    """ILVAS: the cosine between the head-wise attention vectors (length H) that a token gets in two layers, averaged
    over the tokens that the earlier layer attends to most, (B,)."""
    index = index_BK.clamp(min=0)[:, None].expand(-1, early_BHV.shape[1], -1)
    cosine = F.cosine_similarity(early_BHV.gather(2, index), late_BHV.gather(2, index), dim=1)
    chosen = index_BK >= 0
    return torch.where(chosen, cosine, 0).sum(1) / chosen.sum(1)


def _ranks(walk: Walk, sequence: Sequence, index_BK: torch.Tensor) -> Iterator[list[int]]:
    """The chosen tokens of each row, as numbers among its visual tokens."""
    place = sequence.order.gather(1, sequence.visual).gather(1, index_BK.clamp(min=0)) // ROOM
    rank = walk.layout.rank_BS.gather(1, place.clamp(min=0))
    for row in torch.where(index_BK >= 0, rank, -1).tolist():
        yield [number for number in row if number >= 0]
