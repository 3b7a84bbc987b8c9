"""Samples as one training batch: padded at the right, with their images in one stack."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hidrop.runtime.layout import IGNORED


def batch_of(
    samples: Sequence[tuple[list[int], list[int]]], images: Sequence[torch.Tensor], pad_id: int
) -> dict[str, torch.Tensor]:
    """The model's inputs from ids and labels of each sample, and all their images (3, height, width) in order.

    input_ids, attention_mask, labels (batch, length), and pixel_values (images, 3, height, width) if there are images.
    """
    length = max(len(ids) for ids, _ in samples)

    def padded(values: list[int], fill: int) -> list[int]:
        return values + [fill] * (length - len(values))

    batch = {
        "input_ids": torch.tensor([padded(ids, pad_id) for ids, _ in samples]),
        "attention_mask": torch.tensor([padded([1] * len(ids), 0) for ids, _ in samples]),
        "labels": torch.tensor([padded(labels, IGNORED) for _, labels in samples]),
    }
    if images:
        batch["pixel_values"] = torch.stack(list(images))
    return batch
