"""Decode frames of a video by one rule: as asked for or not at all, from inside one folder only.

Needs PyAV, the optional extra `video`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hidrop.errors import UserError, in_a_line, shortened
from hidrop.images import MOST_PIXELS, ImageError, inside

if TYPE_CHECKING:
    from PIL import Image

# The frames of a file that may be counted: a day at 60 frames a second.
MOST_FRAMES = 24 * 3600 * 60
MICROSECONDS = 1_000_000  # FFmpeg counts a file's length in them
# The frames of one video that a model may be shown.
MOST_SHOWN = 1024

# Which frames: evenly spaced from the first to the last one, rounded to the nearest frame or down, or the middles of
# parts of equal length.
Spacing = Literal["nearest", "down", "middles"]


class VideoError(ValueError):
    """Why a video cannot be used. The same file gives the same text in every run."""


@dataclass(frozen=True)
class Sampling:
    """Which frames of a video a model is shown.

    Without `fps`, `frames` of them, or all of a shorter video. With `fps`, so many a second, at least `least` and at
    most `frames`. Their number is a multiple of `multiple`: a shorter video repeats its last frame.
    """

    frames: int = 32
    fps: float | None = None
    spacing: Spacing = "down"
    multiple: int = 1
    least: int = 1

    def stated(self, frames: int | None, fps: float | None) -> Sampling:
        """The same with what a user states. Raises UserError for impossible values."""
        if frames is not None and (type(frames) is not int or not 0 < frames <= MOST_SHOWN):
            raise UserError(f"frames: {frames!r} is not a number of frames from 1 to {MOST_SHOWN}")
        if fps is not None and not (isinstance(fps, int | float) and 0 < fps <= 1000):
            raise UserError(f"fps: {fps!r} is not a number of frames per second above 0")
        if frames is not None and frames < self.multiple:
            raise UserError(f"frames: {frames} is less than {self.multiple}, which this model takes as one")
        if frames is None and fps is None:
            return self
        # A number alone is not a rate's maximum.
        most = self.frames if frames is None else frames
        return replace(self, frames=most, fps=fps, least=min(self.least, most))

    def places(self, total: int, rate: float) -> tuple[int, ...]:
        """The numbers (0-based, rising) of the frames, of a video of `total` frames at `rate` frames a second."""
        count: float = self.frames
        if self.fps is not None:
            count = min(max(total / rate * self.fps, self.least), self.frames)
        number = max(self.multiple, int(min(count, total)) // self.multiple * self.multiple)
        if number > total:
            return (*range(total), *[total - 1] * (number - total))
        if self.spacing == "middles":
            return tuple(int(total / number / 2 + place * total / number) for place in range(number))
        if number == 1:
            return (0,)
        spaced = [place * (total - 1) / (number - 1) for place in range(number)]
        # round() takes an exact half to the even frame, as torch and numpy do.
        return tuple(round(one) if self.spacing == "nearest" else int(one) for one in spaced)


@dataclass(frozen=True)
class Excerpt:
    """At most `most` of the frames that a sampling takes, evenly spread over them, for people to see."""

    sampling: Sampling
    most: int

    def places(self, total: int, rate: float) -> tuple[int, ...]:
        """As `Sampling.places`."""
        places = self.sampling.places(total, rate)
        return tuple(places[number] for number in spread(len(places), self.most))


def spread(count: int, most: int) -> tuple[int, ...]:
    """At most `most` of the numbers 0 to `count` - 1, rising and evenly spread; one alone is the middle one."""
    if count <= most:
        return tuple(range(count))
    return tuple((2 * place + 1) * count // (2 * most) for place in range(most))


@dataclass(frozen=True)
class Video:
    """Frames of a video: RGB images, their numbers in the file, its number of frames, and its frames per second."""

    frames: tuple[Image.Image, ...]
    places: tuple[int, ...]
    total: int
    rate: float

    @property
    def seconds(self) -> tuple[float, ...]:
        """When each frame is shown, from the start of the video, at a constant rate."""
        return tuple(place / self.rate for place in self.places)

    @property
    def sampled_rate(self) -> float:
        """Frames a second of those that were taken."""
        return len(self.frames) / self.total * self.rate


@dataclass(frozen=True)
class VideoFile:
    """A video inside the folder of a data set: `name` is its path there, and `starts` as in `hidrop.images.inside`."""

    folder: Path
    name: str
    starts: tuple[Path, ...] = ()

    @property
    def path(self) -> Path:
        """Raises VideoError like `hidrop.images.inside`."""
        try:
            return inside(self.folder, self.name, *self.starts)
        except ImageError as error:
            raise VideoError(str(error).replace("folder of the images", "folder of the videos")) from None

    def read(self, sampling: Sampling | Excerpt) -> Video:
        """See `read_video`."""
        return read_video(self.path, sampling)


def read_video(path: Path, sampling: Sampling | Excerpt) -> Video:
    """Frames of a video file. Raises VideoError for a broken file, and for one without a video or frames.

    Only as much is decoded as the frames need. A file that was cut off is broken: it has fewer frames than its header
    says or, where a header has none (Matroska), ends before half of its time.
    """
    av, shown = _av(), shortened(path.name)
    try:
        with av.open(str(path)) as container:
            return _read(container, sampling)
    except (UserError, MemoryError):
        raise
    except VideoError as error:
        raise VideoError(f"{shown}: {error}") from None
    except Exception as error:  # a broken file can make FFmpeg raise anything
        # Without the number and the path that FFmpeg puts around its words.
        words = getattr(error, "strerror", None) or in_a_line(error)
        raise VideoError(f"{shown}: broken video: {words}") from error


def _read(container: Any, sampling: Sampling | Excerpt) -> Video:
    if not container.streams.video:
        raise VideoError("no video in this file")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    if stream.width * stream.height > MOST_PIXELS:
        raise VideoError(f"frames of {stream.width} x {stream.height} pixels. At most {MOST_PIXELS:,} are decoded")
    index = _index(container, stream)
    if not index.total:
        raise VideoError("the video has no frames")
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    if rate <= 0:
        raise VideoError("the video does not say how many frames it has in a second")
    length = (container.duration or 0) / MICROSECONDS
    if index.total < stream.frames or (not stream.frames and index.total / rate < length / 2):
        whole = f"of {stream.frames} frames" if stream.frames else f"frames of {length:.1f} s"
        raise VideoError(f"broken video: cut off, it has {index.total} {whole}. Get it again")
    places = sampling.places(index.total, rate)
    frames = dict(_frames(container, stream, index, sorted(set(places))))
    if lacking := [place for place in places if place not in frames]:
        raise VideoError(f"broken video: frame {lacking[0]} of {index.total} cannot be decoded")
    return Video(tuple(frames[place] for place in places), places, index.total, rate)


@dataclass(frozen=True)
class _Index:
    """What the packets of a stream say without being decoded: how many frames there are, and where one can begin.

    `times`: presentation times in their order; None: the file does not have one for each frame. `keys`: those of
    frames that need no other one.
    """

    total: int
    times: tuple[int, ...] | None
    keys: tuple[int, ...]


def _index(container: Any, stream: Any) -> _Index:
    times: list[int | None] = []
    keys: list[int] = []
    for packet in container.demux(stream):
        if not packet.size or packet.is_discard:
            continue
        if packet.is_corrupt:
            raise VideoError(f"broken video: packet {len(times)} is corrupt")
        times.append(packet.pts)
        if packet.is_keyframe and packet.pts is not None:
            keys.append(packet.pts)
        if len(times) > MOST_FRAMES:
            raise VideoError(f"more than {MOST_FRAMES:,} frames, which are not counted")
    known = sorted(time for time in times if time is not None)
    unique = len(known) == len(times) and all(one < other for one, other in pairwise(known))
    return _Index(len(times), tuple(known) if unique else None, tuple(sorted(keys)))


def _frames(container: Any, stream: Any, index: _Index, wanted: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    """The wanted frames by number, in their order."""
    if index.times is None:
        yield from _counted(container, stream, index, wanted)
        return
    number = {time: place for place, time in enumerate(index.times)}
    decoded: Iterator[Any] = iter(())
    reached = -1  # the number of the last frame that was decoded
    for place in wanted:
        key = bisect_right(index.keys, index.times[place]) - 1
        start = number[index.keys[key]] if key >= 0 else 0
        if reached < 0 or start > reached:  # the frames between them are skipped
            container.seek(index.times[start], stream=stream, backward=True)
            decoded = container.decode(stream)
        for frame in decoded:
            reached = number.get(frame.pts, reached)
            if frame.pts == index.times[place]:
                yield place, _image(frame)
                break


def _counted(container: Any, stream: Any, index: _Index, wanted: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    """The same in a file without times: all frames up to the last wanted one are decoded and counted."""
    container.seek(0, stream=stream, backward=True)
    left = set(wanted)
    for place, frame in enumerate(container.decode(stream)):
        if place in left:
            yield place, _image(frame)
            left.remove(place)
        if not left:
            return


def _image(frame: Any) -> Image.Image:
    if getattr(frame, "is_corrupt", False):
        raise VideoError("broken video: a frame is corrupt")
    image = frame.to_image()
    # A phone's video says how it is to be turned, in degrees against the clock.
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise UserError("videos need PyAV, which is not installed: pip install -c constraints.txt av") from None
    return av
