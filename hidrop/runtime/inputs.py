"""From token ids and image features to what enters the decoder. Shapes as in layout.py; D hidden size."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

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


def visual_tokens(
    images: list[torch.Tensor], text: Tokens, layout: Layout, levels: int, encoder: str | None = None
) -> Tokens:
    """The visual tokens of each row. `images`: features of the batch's images, then of its videos, row after row, as
    `Vision.features` gives them, with those of DeepStack's `levels`. Columns after them are `Tokens.side`.

    `encoder`: the method that made them, if it is not the model. Raises ValueError when the prompts have another number
    of placeholders than there are features.
    """
    places, found = sum(layout.visual_counts), sum(image.shape[0] for image in images)
    if places != found and encoder is not None:
        raise ValueError(
            f"{encoder}: encode gave {found} features for {places} visual tokens: give each image as many as it has, "
            "zeros for those that are dropped, and cut them before layer 1 (docs/own-method.md)"
        )
    if places != found:
        raise ValueError(
            f"the prompts hold {places} image tokens, but pixel_values give {found} visual tokens: "
            "let the processor expand each image into as many placeholders as it has tokens"
        )
    index = layout.visual_BV
    width = text.hidden.shape[-1] * (1 + levels)
    features = torch.cat(images) if images else text.hidden[:, 0]
    feature = layout.feature_BV.clamp(min=0).flatten()

    def spread(columns: torch.Tensor) -> torch.Tensor:
        return columns.index_select(0, feature).unflatten(0, index.shape)

    hidden, *more = spread(features[:, :width].to(text.hidden)).split(text.hidden.shape[-1], dim=-1)
    # In its own type: a score is float32, whatever the model computes in.
    side = spread(features[:, width:].to(text.hidden.device)) if features.shape[1] > width else None
    return replace(placed(hidden, index), levels=tuple(more), side=side)


def decoder_prompt(
    text: Tokens,
    visual: Tokens,
    ids_BS: torch.Tensor,
    layout: Layout,
    tokenizer: Any = None,
) -> Prompt:
    """What a method's `prepare` gets to see. Answers (labelled text) are no part of the question.

    `tokenizer`: the model's, for methods that read the questions as text.
    """
    valid = text.order >= 0
    question = valid
    if visual.order.shape[1]:
        question = question & (text.order > visual.order[:, -1:])
    labels = layout.labels(text.order)
    if labels is not None:
        question = question & (labels == IGNORED)
    assert layout.media is not None
    return Prompt(
        visual_BVD=visual.hidden,
        visual_valid_BV=visual.order >= 0,
        text_BTD=text.hidden,
        text_ids_BT=rows(ids_BS, layout.text_BT),
        text_valid_BT=valid,
        question_BT=question,
        media=layout.media,
        side_BVS=visual.side,
        tokenizer=tokenizer,
    )
