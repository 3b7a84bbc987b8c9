"""Batches of the lessons. A batch is a function of (kind, seed, number), so a resumed run sees the same batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hidrop.mini.training.choices import choices_sample
from hidrop.mini.training.collator import SceneCollator
from hidrop.mini.training.drills import drill_sample, letters_sample, rows_sample, signs_sample
from hidrop.mini.training.recipe import Kind
from hidrop.mini.training.samples import Sample, caption_sample, instruction_sample

GROUP = 4  # batches drawn together, so that samples of similar length share a batch

Batch = dict[str, torch.Tensor]
SAMPLES: dict[Kind, Callable[..., Sample]] = {
    "captions": caption_sample,
    "instructions": instruction_sample,
    "signs": signs_sample,
    "rows": rows_sample,
    "letters": letters_sample,
    "drills": drill_sample,
    "choices": choices_sample,
}


class Groups(Dataset[list[Batch]]):
    """Groups of a lesson's batches, from group `first` on. Group g holds batches 4 g .. 4 g + 3."""

    def __init__(self, collator: SceneCollator, kind: Kind, batch: int, seed: int, first: int, count: int) -> None:
        self.collator, self.kind, self.batch, self.seed = collator, kind, batch, seed
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> list[Batch]:
        group = self.first + index
        size = GROUP * self.batch
        make = SAMPLES[self.kind]
        encoded = [self.collator.encode(make(group * size + i, split_seed=self.seed)) for i in range(size)]
        encoded.sort(key=lambda e: len(e.ids))
        order = np.random.default_rng([self.seed, group]).permutation(GROUP)
        return [self.collator.batch(encoded[k * self.batch : (k + 1) * self.batch]) for k in order]


def batches(collator: SceneCollator, kind: Kind, batch: int, seed: int, start: int, stop: int) -> Iterator[Batch]:
    """Batches `start` .. `stop - 1` of a lesson, made by one worker during the training."""
    groups = Groups(collator, kind, batch, seed, start // GROUP, stop // GROUP - start // GROUP)
    loader: DataLoader[list[Batch]] = DataLoader(groups, batch_size=None, num_workers=1, prefetch_factor=3)
    for number, group in enumerate(loader):
        for offset, item in enumerate(group):
            if (start // GROUP + number) * GROUP + offset >= start:
                yield item
