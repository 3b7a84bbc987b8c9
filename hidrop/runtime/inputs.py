"""From token ids and image features to what enters the decoder. Shapes as in layout.py; D hidden size."""

from __future__ import annotations

import torch
from torch import nn

from hidrop.runtime.layout import IGNORED, ROOM, Layout
from hidrop.runtime.scoring import Prompt, rows
from hidrop.runtime.sequence import Tokens


def placed(hidden_BKD: torch.Tensor, place_BK: torch.Tensor) -> Tokens:
    """Tokens of the input at their places in it; -1 for fillers."""
    return Tokens(hidden_BKD, torch.where(place_BK >= 0, place_BK * ROOM, -1))


def text_tokens(embed: nn.Module, ids_BS: torch.Tensor, layout: Layout) -> Tokens:
    """The text tokens of the prompts; image placeholders are never embedded."""
    index = layout.text_BT
    return placed(embed(rows(ids_BS, index)), index)


def visual_tokens(images: list[torch.Tensor], text: Tokens, layout: Layout) -> Tokens:
    """The visual tokens of each row: `images`, (tokens, D) each, are those of the whole batch, row after row.

    Raises ValueError when the prompts have another number of placeholders than there are features.
    """
    places, found = sum(layout.visual_counts), sum(image.shape[0] for image in images)
    if places != found:
        raise ValueError(
            f"the prompts hold {places} image tokens, but pixel_values give {found} visual tokens: "
            "let the processor expand each image into as many placeholders as it has tokens"
        )
    index = layout.visual_BV
    features = torch.cat(images).to(text.hidden) if images else text.hidden[:, 0]
    hidden = features.index_select(0, layout.feature_BV.clamp(min=0).flatten()).unflatten(0, index.shape)
    return placed(hidden, index)


def decoder_prompt(
    text: Tokens,
    visual: Tokens,
    ids_BS: torch.Tensor,
    layout: Layout,
    pixel_values: torch.Tensor | None,
    images: list[torch.Tensor],
) -> Prompt:
    """What a method's `prepare` gets to see. Answers (labelled text) are no part of the question."""
    valid = text.order >= 0
    question = valid
    if visual.order.shape[1]:
        question = question & (text.order > visual.order[:, -1:])
    labels = layout.labels(text.order)
    if labels is not None:
        question = question & (labels == IGNORED)
    image, inside, size = _numbered(images, layout)
    return Prompt(
        visual_BVD=visual.hidden,
        visual_valid_BV=visual.order >= 0,
        text_BTD=text.hidden,
        text_ids_BT=rows(ids_BS, layout.text_BT),
        text_valid_BT=valid,
        question_BT=question,
        image_BV=image,
        inside_BV=inside,
        size_BV=size,
        pixel_values=pixel_values,
    )


def _numbered(images: list[torch.Tensor], layout: Layout) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image, number inside the image and size of the image of each visual token, (B, V)."""
    feature = layout.feature_BV
    if not images:  # no image, or none that is known any more (a sequence that runs again)
        return torch.full_like(feature, -1), torch.full_like(feature, -1), torch.ones_like(feature)
    lengths = [image.shape[0] for image in images]
    flat = feature.clamp(min=0)
    if min(lengths) == max(lengths):  # the usual case, without a transfer
        image, inside, size = flat // lengths[0], flat % lengths[0], torch.full_like(flat, lengths[0])
    else:
        sizes = torch.tensor(lengths)
        number = torch.arange(len(lengths)).repeat_interleave(sizes)
        first = torch.arange(len(number)) - (sizes.cumsum(0) - sizes)[number]
        table = torch.stack([number, first, sizes[number]]).to(feature.device)
        image, inside, size = table[:, flat]
    there = feature >= 0
    return torch.where(there, image, -1), torch.where(there, inside, -1), torch.where(there, size, 1)
