"""The pictures of a page's samples: images and frames of videos as small data URLs, and the grids of tokens on them."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from typing import Any

from evals.report.caption import counted
from evals.tasks.build import build, quiet
from evals.tasks.data import TaskSpec
from evals.tasks.protocol import protocol
from evals.tasks.shown_videos import shown_digest
from evals.tasks.video_files import apart
from hidrop.errors import UserError, in_a_line
from hidrop.images import as_rgb
from hidrop.videos import Excerpt, Sampling, VideoFile, spread

MOST = 8  # pictures of a sample
SIDE, SMALLER_SIDE = 192, 128  # pixels of the only picture of a sample, and of one of several
LONGEST = 600  # characters of a question or an answer

Panels = Sequence[Sequence[Sequence[int]]]  # of each medium, as in `AnswerRecord`
# What decides how a model sees a sample: whether its tokens cover all of an image, and which frames of a video it gets.
Look = tuple[bool, Sampling | None]


@dataclass(frozen=True)
class Picture:
    """An image, or a frame of a video. `url`: as a data URL. `label`: "" for the only picture of a sample.

    visual: its number among the sample's images and videos. frame: its number among those of its video that the model
    was shown; 0 for an image.
    """

    url: str
    label: str = ""
    visual: int = 0
    frame: int = 0


@dataclass(frozen=True)
class View:
    """What a model is shown of a sample: images, then videos. `frames`: of each of them, 1 for an image.

    `pictures`: some of these, in their order.
    """

    pictures: tuple[Picture, ...] = ()
    frames: tuple[int, ...] = ()
    films: int = 0  # how many of `frames` are videos: the last ones

    def fewer(self, most: int) -> View:
        """The same with at most `most` pictures: the first images, or frames that are evenly spread."""
        if not self.films:
            return replace(self, pictures=self.pictures[:most])
        return replace(self, pictures=tuple(self.pictures[place] for place in spread(len(self.pictures), most)))

    @property
    def more(self) -> str:
        """What is not among the pictures: "24 more frames"; "" if all is."""
        left = sum(self.frames) - len(self.pictures)
        return counted(left, "more frame" if self.films else "more image") if left else ""

    def grids(self, panels: Panels) -> tuple[list[list[int]], int] | None:
        """The numbers of the grids on each picture, and how many frames share one. None if that is not known.

        Grids are counted over all media: one for each frame of a panel that has places of the image. A medium is an
        image or a video, or each of them is a frame. Of a tile that is a medium of its own nobody knows the image.
        """
        starts = (0, *accumulate(self.frames))
        if not self.pictures or len(panels) not in (len(self.frames), starts[-1]):
            return None
        single = len(panels) == starts[-1]  # each image and each frame is a medium
        found, spans, numbered = [], set[int](), _numbered(panels)
        for picture in self.pictures:
            medium = starts[picture.visual] + picture.frame if single else picture.visual
            frame, frames = (0, 1) if single else (picture.frame, self.frames[picture.visual])
            steps = {len(grids) for grids in numbered[medium]}
            if any(frames % step for step in steps):
                return None
            spans |= {frames // step for step in steps}
            found.append([grids[frame * len(grids) // frames] for grids in numbered[medium]])
        return (found, spans.pop()) if len(spans) == 1 else None


def _numbered(panels: Panels) -> list[list[range]]:
    """The numbers of the grids of each medium: a range of frames for each panel with places of the image."""
    found, number = [], 0
    for medium in panels:
        found.append(list[range]())
        for frames, rows, columns, _ in medium:
            if frames and rows and columns:
                found[-1].append(range(number, number + frames))
                number += frames
    return found


@dataclass(frozen=True)
class ShownSample:
    """The question of a sample, and its pictures as each kind of model gets them."""

    question: str
    views: Mapping[Look, View] = field(default_factory=dict)

    def view(self, look: Look) -> View:
        """What a model sees that looks like this; a sample without videos is the same for every sampling."""
        return self.views.get(look) or self.views.get((look[0], None)) or View()


def sampling_of(identity: Mapping[str, Any]) -> Sampling | None:
    """Which frames of a video a cell's model was shown, by its journal's header; None for a task of images."""
    if not isinstance(film := identity.get("film"), Mapping):
        return None
    return Sampling(**{one.name: film[one.name] for one in fields(Sampling) if one.name in film})


def check_films(spec: TaskSpec, identities: Sequence[Mapping[str, Any]]) -> None:
    """Raises UserError if the videos that only a task's own functions know are not those of the cells any more."""
    digests = {film["files"] for identity in identities if (film := identity.get("film")) and "files" in film}
    if digests and digests != {shown_digest(spec)}:
        raise UserError("its videos differ from those that the run read")


def read(
    spec: TaskSpec, docs: Sequence[int], samplings: Sequence[Sampling | None], problems: list[str]
) -> Iterator[tuple[int, ShownSample]]:
    """The samples with these doc_ids, as models with these samplings see them.

    `problems` gets why a sample has no pictures: a broken file, for instance, as the sample's record says too.
    """
    filmed = functools.cache(_filmed)  # several questions are about one video
    with quiet():
        task = build(spec)
        for number in docs:
            doc, views = task.eval_docs[number], dict[Look, View]()
            try:
                images, films = apart(task.doc_to_visual(doc) or ())
                stills = _stills(spec, images, films)
                for sampling in samplings if films else [None]:
                    counts, frames = _frames(filmed, len(images), films, sampling)
                    for whole, own in stills.items():
                        shown = View((*own, *frames), (*[1] * len(images), *counts), len(films))
                        views[whole, sampling] = shown.fewer(MOST)
            except Exception as error:  # PIL, PyAV and tasks raise many types
                problems.append(in_a_line(error))
            yield number, ShownSample(short(str(task.doc_to_text(doc))), views)


def short(text: str) -> str:
    """A text of at most LONGEST characters."""
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _stills(spec: TaskSpec, images: Sequence[Any], films: Sequence[VideoFile]) -> dict[bool, list[Picture]]:
    """The first images of a sample, whole (True), and as the protocol cuts them for a model with a square (False)."""
    side = SIDE if len(images) + len(films) == 1 else SMALLER_SIDE
    found: dict[bool, list[Picture]] = {False: [], True: []}
    for number, image in enumerate(images[:MOST]):
        rgb = as_rgb(image)
        label = f"image {number + 1}" if len(images) + len(films) > 1 else ""
        for whole, shown in ((False, protocol(spec.protocol).seen(rgb)), (True, rgb)):
            found[whole].append(Picture(_data_url(shown, side), label, number))
    return found


# The number of frames that a model is shown of a video, and some of them as pictures.
Filmed = tuple[int, Sequence[Picture]]


def _frames(
    filmed: Callable[[VideoFile, Sampling, int], Filmed],
    images: int,
    films: Sequence[VideoFile],
    sampling: Sampling | None,
) -> tuple[list[int], list[Picture]]:
    """The numbers of frames of all videos, which come after so many images, and their pictures."""
    counts, found = list[int](), list[Picture]()
    for number, film in enumerate(films):
        if sampling is None:
            raise UserError("the journal does not say which frames of the videos were shown")
        count, pictures = filmed(film, sampling, max(1, MOST // len(films)))
        counts.append(count)
        name = f"video {number + 1}, " if len(films) > 1 else ""
        found += [replace(one, label=name + one.label, visual=images + number) for one in pictures]
    return counts, found


def _filmed(film: VideoFile, sampling: Sampling, most: int) -> Filmed:
    video = film.read(Excerpt(sampling, most))
    count = len(sampling.places(video.total, video.rate))
    return count, [
        Picture(_data_url(frame, SMALLER_SIDE), f"frame {place + 1}, {second:.1f} s", frame=place)
        for place, frame, second in zip(spread(count, most), video.frames, video.seconds, strict=True)
    ]


def _data_url(image: Any, side: int) -> str:
    image = image.copy()
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
