"""Tiny videos for tests, encoded by PyAV: frame `i` is of grey `STEP * i`, with a white bar that grows to the right."""

from __future__ import annotations

from pathlib import Path

import numpy as np

STEP = 8
SIZE = (64, 48)  # width, height


def grey(number: int) -> int:
    """The grey of a frame, from which its number can be read."""
    return STEP * number % 256


def write_film(
    path: Path,
    frames: int = 12,
    rate: int = 4,
    codec: str = "ffv1",
    size: tuple[int, int] = SIZE,
    shade: int = 0,
    **options: str,
) -> Path:
    """A video of `frames` frames at `rate` a second. `shade` is added to all greys."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.bit_rate = 4_000_000  # so that a lossy codec keeps the greys
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        container.start_encoding()  # writes the header of a file without frames, too
        for number in range(frames):
            pixels = np.full((height, width, 3), grey(number) + shade, np.uint8)
            pixels[: height // 4, : (number + 1) * width // (frames + 1)] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path
