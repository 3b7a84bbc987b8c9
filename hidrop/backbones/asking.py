"""How lmms-eval asks a family: what the model class that its `--model` starts does around the model, as plain data.

Read in lmms-eval 0.7.3's source. Where a name has two classes there, it is the one for chat templates, which lmms-eval
prefers. `evals.tasks.protocol` asks by it, and its tests compare answers with lmms-eval's own classes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hidrop.videos import Sampling

if TYPE_CHECKING:
    from PIL import Image

    from hidrop.backbones.pixel_limits import PixelLimits

LONGEST_SIDE = 200  # times the shorter one, in qwen-vl-utils
NATIVE_NAME = "native"


@dataclass(frozen=True)
class Resizing:
    """qwen-vl-utils' resizing of an image, which comes before the processor's.

    Sides become multiples of `factor` pixels, and the area stays between `least` and `most` pixels.
    """

    factor: int
    least: int
    most: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """Raises ValueError like `size`."""
        height, width = self.size(image.height, image.width)
        return image.resize((width, height))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The height and width after resizing. Raises ValueError for an image that is too long for its width."""
        if max(width, height) > LONGEST_SIDE * min(width, height):
            raise ValueError(f"an image of {width} x {height} pixels is more than {LONGEST_SIDE} times as long as wide")
        rows, columns = (max(1, round(side / self.factor)) for side in (height, width))
        area = rows * columns * self.factor**2
        if area > self.most:
            shrunk = math.sqrt(height * width / self.most)
            rows, columns = (math.floor(side / shrunk / self.factor) for side in (height, width))
        elif area < self.least:
            grown = math.sqrt(self.least / (height * width))
            rows, columns = (math.ceil(side * grown / self.factor) for side in (height, width))
        return rows * self.factor, columns * self.factor


@dataclass(frozen=True)
class Asking:
    """One model class of lmms-eval with its defaults.

    `name`: as in `--model`. `system`: the turn that it puts in front of the template's own. `removed`: texts that it
    takes out of a question. `jpeg`: the quality with which it writes each image as a JPEG and reads it again.
    `resizing`: before the processor. `settings`: arguments of the processor for images. `limited`: which of
    the last two a user's limits of pixels replace. `sampling`: which frames of a video are shown; None: as the family's
    `native_sampling` says. `frame_pixels`: the least and the most pixels of a frame, where they are not those of
    qwen-vl-utils. `together`: images of a prompt are given as those of one prompt, which some processors treat in
    another way. `longest`: the longest answer, in tokens, where a task states none. `own_settings`: the checkpoint's
    generation settings apply (penalties), as far as the task states none. `ends`: the tokenizer's end token alone ends
    an answer. `stops`: an answer is cut at a task's stop texts; `ignored`: those at which it is not. `strips`: white
    space around an answer is taken away.
    """

    name: str
    longest: int
    system: str | None = None
    removed: tuple[str, ...] = ()
    jpeg: int | None = None
    resizing: Resizing | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    limited: tuple[str, ...] = ("settings",)
    sampling: Sampling | None = None
    frame_pixels: tuple[int, int] | None = None
    together: bool = False
    own_settings: bool = True
    ends: bool = True
    stops: bool = False
    ignored: tuple[str, ...] = ()
    strips: bool = False

    def limiting(self, limits: PixelLimits, token: int) -> Asking:
        """The same with a user's limits of pixels; `token`: pixels of one visual token."""
        if limits.field is None or self.name == NATIVE_NAME:  # the processor has them
            return self
        resizing, settings = self.resizing, dict(self.settings)
        if resizing and "resizing" in self.limited:
            least, most = limits.within(resizing.least, resizing.most, token)
            resizing = replace(resizing, least=least, most=most)
        if "settings" in self.limited:
            settings["min_pixels"], settings["max_pixels"] = limits.within(
                settings["min_pixels"], settings["max_pixels"], token
            )
        return replace(self, resizing=resizing, settings=settings)

    def question(self, text: str) -> str:
        """The question as the class asks it."""
        for part in self.removed:
            text = text.replace(part, "")
        return text

    def seen(self, image: Image.Image) -> Image.Image:
        """What the processor gets for an RGB image."""
        if self.jpeg is not None:
            image = _as_jpeg(image, self.jpeg)
        return self.resizing(image) if self.resizing else image

    def seen_size(self, height: int, width: int) -> tuple[int, int]:
        """The height and width of `seen` for an image of these. Raises ValueError like `Resizing.size`."""
        return self.resizing.size(height, width) if self.resizing else (height, width)

    def answer(self, text: str, until: str | Sequence[str] | None) -> str:
        """The answer in a generated text."""
        for stop in [until] if isinstance(until, str) else until or ():
            if self.stops and stop and stop not in self.ignored:
                text = text.split(stop)[0]
        return text.strip() if self.strips else text


# The chat template as it is, and nothing else.
NATIVE = Asking(NATIVE_NAME, longest=1024, together=True, own_settings=False, ends=False, stops=True, strips=True)


def _as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    from PIL import Image as Images

    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=quality)
    stream.seek(0)
    return Images.open(stream).convert("RGB")
