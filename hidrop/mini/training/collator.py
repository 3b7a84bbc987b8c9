"""From conversations to tensors: token ids with image placeholders, labels on the answers only, right padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hidrop.mini.training.samples import Sample
from hidrop.runtime.layout import IGNORED
from hidrop.training.batch import batch_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedSample:
    """One sample. `ids` and `labels` have the same length, and labels are IGNORED outside the answers."""

    ids: list[int]
    labels: list[int]
    sample: Sample


@dataclass(frozen=True)
class SceneCollator:
    """Turns samples into batches. `image_tokens` placeholders stand for the image, at the start of the first turn.

    A first turn with an empty question is a caption: it follows the image directly, as in LLaVA's pretraining prompt.
    """

    tokenizer: PreTrainedTokenizerBase
    image_token_id: int
    image_tokens: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def encode(self, sample: Sample) -> EncodedSample:
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        ids: list[int] = [bos]
        labels: list[int] = [IGNORED]

        def text(piece: str) -> list[int]:
            return self.tokenizer(piece, add_special_tokens=False).input_ids

        only = {text(f" {word}")[0] for word in sample.only}

        def say(tokens: list[int], supervised: bool) -> None:
            ids.extend(tokens)
            labels.extend(token if supervised and (not only or token in only) else IGNORED for token in tokens)

        image = [self.image_token_id] * self.image_tokens
        for number, (question, answer) in enumerate(sample.turns):
            first = number == 0 and sample.pixels is not None
            if first and not question:
                say(image, supervised=False)
                say([*text(answer), eos], supervised=True)
                continue
            if first:
                say(text("USER: "), supervised=False)
                say(image, supervised=False)
                say(text(f"\n{question} ASSISTANT:"), supervised=False)
            else:
                say(text(f"USER: {question} ASSISTANT:"), supervised=False)
            say([*text(f" {answer}"), eos], supervised=True)
        return EncodedSample(ids, labels, sample)

    def batch(self, encoded: Sequence[EncodedSample]) -> dict[str, torch.Tensor]:
        """A batch, see `batch_of`; pixel_values float32."""
        images = [e.sample.pixels for e in encoded if e.sample.pixels is not None]
        pixels = list(self.normalise(images)) if images else []
        return batch_of([(e.ids, e.labels) for e in encoded], pixels, self.tokenizer.pad_token_id)

    def normalise(self, images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
        """Images (height, width, 3) normalised like the image processor does it: (images, 3, height, width) float32."""
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255.0
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (self.mean, self.std))
        return (pixels - mean) / std
