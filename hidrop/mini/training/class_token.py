"""A class token that says what is in the whole image, added to a tower whose patches are trained already.

The tower's warm-up (foundations.py) has losses on patches only. Methods that choose patches by the class token's
attention (VisionZip, FasterVLM) need one that has learned to look somewhere. As in CLIP, it learns from a loss on its
own output: from `pooler_output`, a small network tells which coloured digits, words and digits of numbers the image
shows. The network is thrown away. No loss is on the attention.

The whole tower learns, since its layers' weights are shared by all tokens. A second loss keeps the patches' features
close to what they were, so that a projector and a decoder that were trained with them still fit.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from hidrop.mini.glyphs import WORDS
from hidrop.mini.scenes import COLORS, Scene
from hidrop.mini.training.optimizer import Pair, warm_then_decay

if TYPE_CHECKING:
    from hidrop.mini.training.recipe import Stage

# What an image can show: a coloured digit, a word, a digit at one of a number's three places.
NAMES = tuple(f"{color} {value}" for color in COLORS for value in range(10))
NUMBERS = tuple(f"{place}: {value}" for place in range(3) for value in range(10))
SHOWN = (*NAMES, *WORDS, *NUMBERS)
READER = 512  # width of the network that reads the class token
READER_RATE = 3.0  # its learning rate relative to the tower's
# Weight of the features' `distance` against a tenth of the cross entropy, summed over labels.
KEEP = 20.0


def shown_in(scene: Scene) -> NDArray[np.float32]:
    """1 for each of SHOWN that the scene shows, else 0."""
    found = [digit.name for digit in scene.digits]
    for sign in scene.signs:
        found += [f"{place}: {value}" for place, value in enumerate(sign.text)] if sign.is_number else [sign.text]
    return np.isin(SHOWN, found).astype(np.float32)


def learn(
    tower: Any,
    scenes: Callable[[int], list[Scene]],
    pixels: Callable[[list[Scene]], torch.Tensor],
    stage: Stage,
    seed: int,
    say: Callable[[int, list[float], float, str], None],
) -> None:
    """Train `tower` in place, on the scenes of each step.

    `scenes` gives those of a step, `pixels` their images (scenes, 3, height, width). `say` is told the step, the class
    token's losses, when the training began, and how far features have moved.
    """
    before = copy.deepcopy(tower).requires_grad_(False)
    torch.manual_seed(seed)
    width = tower.config.hidden_size
    reader = nn.Sequential(nn.Linear(width, READER), nn.GELU(), nn.Linear(READER, len(SHOWN)))
    named = [*tower.named_parameters(), *((f"reader.{name}", p) for name, p in reader.named_parameters())]
    optimizer = Pair(named, stage.lr, {"reader.": READER_RATE})
    started, losses = time.monotonic(), []
    for step in range(stage.steps):
        shown = scenes(step)
        images = pixels(shown)
        made = tower(images, output_hidden_states=True)
        with torch.no_grad():
            old_BPD = before(images, output_hidden_states=True).hidden_states[-1][:, 1:]
        moved = distance(made.hidden_states[-1][:, 1:], old_BPD)
        labels = torch.from_numpy(np.stack([shown_in(scene) for scene in shown]))
        told = binary_cross_entropy_with_logits(reader(made.pooler_output), labels, reduction="none").sum(1).mean()
        (told / 10 + KEEP * moved).backward()
        optimizer.step(warm_then_decay(step, stage.steps))
        losses.append(told.item())
        say(step, losses, started, f"moved {moved.item() ** 0.5:.3f}  ")


def distance(new_BPD: torch.Tensor, old_BPD: torch.Tensor) -> torch.Tensor:
    """The mean squared change of features, as a share of the old ones' variance over images and patches."""
    spread = (old_BPD - old_BPD.mean((0, 1))).square().mean()
    return (new_BPD - old_BPD).square().mean() / spread
