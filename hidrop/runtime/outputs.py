"""What a forward gives back: logits at the places of the input, and the loss of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from hidrop.cache_name import cache_name
from hidrop.runtime.layout import IGNORED, Layout
from hidrop.runtime.sequence import Sequence


@dataclass
class ReducedOutput(CausalLMOutputWithPast):
    """What a reduced model returns. `image_hidden_states`: features of all images, (tokens, D); None where none ran."""

    image_hidden_states: torch.Tensor | None = None


def image_states(features: list[torch.Tensor], hidden: int) -> torch.Tensor | None:
    """What enters the decoder of all images' features, (tokens, D): without DeepStack's levels. None without images."""
    return torch.cat(features)[:, :hidden] if features else None


def returned(
    logits: torch.Tensor | None,
    cache: Cache | None,
    images: torch.Tensor | None,
    return_dict: bool | None,
    loss: torch.Tensor | None = None,
) -> tuple | ReducedOutput:
    """As transformers' models give it back; `images`: see `image_states`."""
    held: Any = {cache_name(): cache}
    output = ReducedOutput(loss=loss, logits=logits, image_hidden_states=images, **held)
    return output.to_tuple() if return_dict is False else output


def logits(
    head: nn.Module, hidden: torch.Tensor, sequence: Sequence, layout: Layout, length: int, keep: int | torch.Tensor
) -> torch.Tensor:
    if isinstance(keep, int) and keep == 1:
        return head(hidden[:, -1:])
    source = layout.sources(sequence.order)
    place = torch.where(source >= 0, source, length)[:, :, None].expand_as(hidden)
    full = hidden.new_zeros(hidden.shape[0], length + 1, hidden.shape[2]).scatter(1, place, hidden)[:, :length]
    return head(full[:, slice(-keep, None) if isinstance(keep, int) else keep])


def loss(
    head: nn.Module, hidden: torch.Tensor, sequence: Sequence, layout: Layout, items: torch.Tensor | int | None
) -> torch.Tensor:
    """Mean cross entropy over the labels (over `items` instead, as transformers' Trainer asks for)."""
    label_BN = layout.labels(sequence.order)
    assert label_BN is not None
    target = label_BN[:, 1:]
    wanted = (target != IGNORED) & (sequence.order[:, :-1] >= 0)  # nothing is predicted from padding
    logits = head(hidden[:, :-1][wanted]).float()
    total = F.cross_entropy(logits, target[wanted].to(logits.device), reduction="sum")
    return total / (wanted.sum().clamp(min=1) if items is None else items)
