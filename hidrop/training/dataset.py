"""Samples whose images are read on demand, batches of one modality, and right-padded tensors."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from hidrop.backbones import Backbone
from hidrop.errors import UserError, in_a_line
from hidrop.images import open_image, read_inside
from hidrop.prompts import pad_to_square
from hidrop.training.batch import batch_of
from hidrop.training.conversations import Conversations, Prompt, encode
from hidrop.training.recipe import LlavaRecipe

Example = dict[str, Any]
# Abort after this many consecutive unreadable samples.
PATIENCE = 100


class Samples(Dataset[Example]):
    """Sample `i` as {"ids", "labels", "images": (3, height, width) tensors}.

    A sample that cannot be used (a broken image, an image beyond the longest length) is replaced by the next one of its
    modality and counted in `replaced`, over all worker processes. Raises UserError for many unusable samples in a row.
    """

    def __init__(
        self,
        conversations: Conversations,
        folder: Path,
        tokenizer: Any,
        image_processor: Any,
        image_token_id: int,
        image_tokens: int,
        prompt: Prompt,
        shape: Literal["square", "pad"],
        longest: int,
    ) -> None:
        self.conversations, self.folder = conversations, folder
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.image_token_id, self.image_tokens = image_token_id, image_tokens
        self.prompt, self.shape, self.longest = prompt, shape, longest
        self._fill = tuple(int(255 * mean) for mean in image_processor.image_mean)
        self._replaced = multiprocessing.Value("q", 0)

    def __len__(self) -> int:
        return len(self.conversations)

    @property
    def replaced(self) -> int:
        return self._replaced.value

    def __getitem__(self, index: int) -> Example:
        lengths = self.conversations.lengths
        reason = ""
        others = ((index + step) % len(self) for step in range(len(self)))
        alike = (other for other in others if (lengths[other] > 0) == (lengths[index] > 0))
        for other in itertools.islice(alike, PATIENCE + 1):
            try:
                return self.read(other)
            except (UserError, MemoryError):
                raise
            except Exception as error:  # an image, or a prompt that is too long
                reason = reason or f"sample {other}: {in_a_line(error)}"
                with self._replaced.get_lock():
                    self._replaced.value += 1
        raise UserError(f"{self.conversations.path}: no usable sample from {index} on. First problem: {reason}")

    def read(self, index: int) -> Example:
        """This very sample. Raises whatever a broken image makes PIL raise, and ValueError for one that is cut off."""
        turns = self.conversations[index]
        images = [self._image(path) for path in turns.images]
        counts = [self.image_tokens] * len(images)
        ids, labels = encode(turns, self.tokenizer, self.image_token_id, counts, self.prompt, self.longest)
        return {"ids": ids, "labels": labels, "images": images}

    def _image(self, path: str) -> torch.Tensor:
        image = open_image(read_inside(self.folder, path))
        if self.shape == "pad":
            image = pad_to_square(image, self._fill)
        return self.image_processor(images=image, return_tensors="pt")["pixel_values"][0]


def samples_of(
    recipe: LlavaRecipe, conversations: Conversations, backbone: Backbone, tokenizer: Any, image_processor: Any
) -> Samples:
    """The samples of a recipe for a model."""
    return Samples(
        conversations,
        recipe.data.images,
        tokenizer,
        image_processor,
        backbone.placeholder_id,
        backbone.pixel_tokens,
        recipe.prompt,
        recipe.image,
        recipe.max_length,
    )


class Collator:
    """Makes a batch from samples, see `batch_of`."""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        images = [image for example in examples for image in example["images"]]
        return batch_of([(example["ids"], example["labels"]) for example in examples], images, self.pad_id)


class Order(Sampler[int]):
    """The order of an epoch, in whole batches of all processes. `set_epoch` draws a new order.

    With `grouped`, each batch has one modality, so that all processes run the same modules (otherwise ZeRO-3 would wait
    forever), and is sorted by length, so that each process's part needs little padding. The rest of each modality, less
    than a batch, is left out of the epoch.
    """

    def __init__(self, lengths: np.ndarray, batch: int, seed: int, *, grouped: bool) -> None:
        self.lengths, self.batch, self.seed, self.grouped = lengths, batch, seed, grouped
        self.epoch = 0
        kinds = [lengths > 0, lengths <= 0] if grouped else [np.ones(len(lengths), dtype=bool)]
        self._kinds = [np.flatnonzero(kind) for kind in kinds]
        self._count = sum(len(kind) // batch for kind in self._kinds) * batch
        if not self._count:
            raise UserError(f"{len(lengths)} samples give no batch of {batch}{' of one modality' if grouped else ''}")

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        batches = []
        for kind in self._kinds:
            dealt = random.permutation(kind)
            whole = dealt[: len(dealt) // self.batch * self.batch].reshape(-1, self.batch)
            batches += list(whole)
        for number in random.permutation(len(batches)):
            chosen = batches[number]
            if self.grouped:
                chosen = chosen[np.argsort(-np.abs(self.lengths[chosen]), kind="stable")]
            yield from chosen.tolist()
