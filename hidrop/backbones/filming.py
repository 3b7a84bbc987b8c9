"""Frames of a video as a model's inputs, without transformers' video processors: those need torchvision.

Frames go through PIL as images do, so that pixels do not depend on what is installed. transformers resizes frames as
tensors instead, by the same bicubic rule: colours differ by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Filmed:
    """A video as a model gets it: what stands for it in the text, and the model's inputs for its frames, by name."""

    text: str
    inputs: dict[str, torch.Tensor]


def squares(frames: Sequence[Image.Image], image_processor: Any) -> torch.Tensor:
    """Each frame as one square without tiles, (frames, 3, height, width): the image processor's size and colours."""
    size = image_processor.size
    mean, std = (np.array(colour, np.float32) for colour in (image_processor.image_mean, image_processor.image_std))
    resized = [frame.resize((size.width, size.height), image_processor.resample) for frame in frames]
    pixels = np.stack([np.asarray(frame, np.float32) for frame in resized]) * image_processor.rescale_factor
    return torch.from_numpy(((pixels - mean) / std).astype(np.float32)).permute(0, 3, 1, 2).contiguous()


def paired(frames: Sequence[Image.Image], image_processor: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of frames that are followed through time, and their grid: (patches, numbers of a patch), (1, 3).

    A patch of Qwen's towers spans `temporal_patch_size` frames. The image processor repeats an image to fill it, so the
    patches of that many frames are put together from one share of each. Frames have their final size already, and their
    number is a multiple of `temporal_patch_size`.
    """
    span, side = image_processor.temporal_patch_size, image_processor.patch_size
    made = image_processor(images=list(frames), do_resize=False, return_tensors="pt")
    _, rows, columns = made["image_grid_thw"][0].tolist()
    # steps in time, frames of a step, patches of a frame, colours, repetitions, pixels of a patch
    patches = made["pixel_values"].view(len(frames) // span, span, rows * columns, 3, span, side * side)
    joined = torch.stack([patches[:, frame, :, :, frame] for frame in range(span)], dim=3)
    grid = torch.tensor([[len(frames) // span, rows, columns]])
    return joined.reshape(-1, 3 * span * side * side), grid
