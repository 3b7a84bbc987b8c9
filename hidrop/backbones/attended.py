"""What the tower's attention says of an image's tokens, for methods that choose tokens without a class token.

A token is as important as the attention that its patches receive, averaged over all queries of the image (of the frame,
in a video) and over heads, in the tower's last block that sees the whole image. Queries are taken in blocks of
BLOCK_BYTES: the square of 5000 patches and 16 heads would be 1.6 GiB. Shapes: I squares, N patches, H heads, d head
size, K tokens of a medium.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

BLOCK_BYTES = 256 << 20


@dataclass(frozen=True)
class Attended:
    """Of one medium: its features (K, D x (1 + levels)), and of each token the attention received and the mean key.

    `received_K`: float32; `key_Kd`: mean over the token's patches and over heads, with RoPE where the tower has it.
    """

    features_KD: torch.Tensor
    received_K: torch.Tensor
    key_Kd: torch.Tensor


@contextmanager
def reading(module: nn.Module, read: Callable[..., Any]) -> Iterator[list[Any]]:
    """A block in which what `read(*args, **kwargs)` makes of each call of `module` is put into a list.

    It runs right before the module does, so that weights which are divided among processes (FSDP) are there.
    """
    found: list[Any] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with torch.no_grad():
            found.append(read(*args, **kwargs))

    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def received(
    query_INHd: torch.Tensor, key_INHd: torch.Tensor, scaling: float, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over queries and heads of the attention that each patch receives, (I, N) float32.

    `mask`: what is added to the logits, or (as booleans) what may be seen, (I, 1, N or 1, N) or (I, N).
    """
    query, key = query_INHd.transpose(1, 2) * scaling, key_INHd.permute(0, 2, 3, 1)
    squares, heads, count, _ = query.shape
    if mask is not None and mask.dim() == 2:
        mask = mask[:, None, None].bool()
    total = torch.zeros(squares, count, device=query.device)
    size = max(1, BLOCK_BYTES // (4 * squares * heads * count))
    for first in range(0, count, size):
        logits = (query[:, :, first : first + size] @ key).float()
        if mask is not None:
            part = mask if mask.shape[2] == 1 else mask[:, :, first : first + size]
            logits = logits.masked_fill(~part, -torch.inf) if part.dtype == torch.bool else logits + part
        total = total + logits.softmax(-1).sum((1, 2))
    return total / (heads * count)


def squares(
    attention: Any,
    features: Callable[[], list[torch.Tensor]],
    side: int,
    *,
    norms: tuple[str, str] | None = None,
) -> list[Attended]:
    """Of towers that see squares of patches and make `side` x `side` tokens of each, a mean over blocks of patches.

    `attention`: the module of the last block, with q_proj and k_proj. `features` runs the tower once. `norms`: names of
    the module's norms of all heads' queries and keys. A class token comes before the patches.
    """

    def read(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any) -> Any:
        query, key = attention.q_proj(hidden_states), attention.k_proj(hidden_states)
        if norms is not None:
            query, key = getattr(attention, norms[0])(query), getattr(attention, norms[1])(key)
        query, key = (made.unflatten(-1, (attention.num_heads, -1)) for made in (query, key))
        return received(query, key, attention.scale, attention_mask), key.float().mean(2)

    with reading(attention, read) as calls:
        made = features()
    ((seen_IN, key_INd),) = calls
    parts = zip(made, blocks(seen_IN[..., None], side)[..., 0], blocks(key_INd, side), strict=True)
    return [Attended(*three) for three in parts]


def blocks(values_INd: torch.Tensor, side: int) -> torch.Tensor:
    """Means over blocks of a square of patches, (I, side x side, d). What is before the patches is left out."""
    patches = int(values_INd.shape[1] ** 0.5)
    square = values_INd[:, -(patches**2) :].transpose(1, 2).unflatten(-1, (patches, patches))
    return torch.nn.functional.avg_pool2d(square, patches // side).flatten(2).transpose(1, 2)
