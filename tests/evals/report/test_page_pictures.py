"""Pictures of a page's samples: which images and frames there are, and which grids of tokens are on which of them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest

from evals.report.page_pictures import MOST, Picture, ShownSample, View, read
from evals.report.page_samples import PageSamples, _listed
from evals.store.kept_tokens import pack
from evals.tasks import TaskSpec, get_task
from hidrop.videos import Sampling
from tests.evals.tasks.layout import put
from tests.evals.tasks.official.many_images import ROWS, P, multidocvqa
from tests.evals.tasks.table import CASES
from tests.films import write_film

SQUARE, END = [1, 4, 4, 0], [1, 1, 0, 1]


def view_of(frames: tuple[int, ...], films: int = 0, shown: tuple[tuple[int, int], ...] = ()) -> View:
    """A view of images and videos with so many frames; `shown`: (visual, frame) of each picture, by default all."""
    places = shown or tuple((visual, frame) for visual, count in enumerate(frames) for frame in range(count))
    return View(tuple(Picture(f"{visual}.{frame}", "", visual, frame) for visual, frame in places), frames, films)


@pytest.mark.parametrize(
    ("view", "panels", "found"),
    [
        (view_of((1,)), [[SQUARE]], ([[0]], 1)),
        (view_of((1,)), [[[1, 1, 0, 1], SQUARE]], ([[0]], 1)),  # LLaVA with its class token
        (view_of((1, 1)), [[SQUARE, [1, 8, 6, 1]], [SQUARE, [1, 4, 9, 1]]], ([[0, 1], [2, 3]], 1)),  # LLaVA-NeXT
        (view_of((1, 1, 1)), [[SQUARE]] * 3, ([[0], [1], [2]], 1)),
        (view_of((1,)), [[SQUARE]] * 5, None),  # tiles of one image, each a medium of its own
        (view_of((1, 1)), [[SQUARE]] * 3, None),
        (view_of((1,)), [[[2, 4, 4, 0]]], None),
        (view_of((4,), 1), [[[4, 3, 3, 0], END]], ([[0], [1], [2], [3]], 1)),  # LLaVA-OneVision
        (view_of((4,), 1), [[[2, 3, 3, 0]]], ([[0], [0], [1], [1]], 2)),  # Qwen: two frames share a grid
        (view_of((2,), 1), [[[1, 3, 3, 0]]], ([[0], [0]], 2)),
        (view_of((4,), 1), [[SQUARE]] * 4, ([[0], [1], [2], [3]], 1)),  # InternVL, Gemma: each frame is a medium
        (view_of((8,), 1, ((0, 1), (0, 5))), [[[4, 3, 3, 0]]], ([[0], [2]], 2)),
        (view_of((4, 4), 2, ((0, 3), (1, 0))), [[[2, 3, 3, 0]]] * 2, ([[1], [2]], 2)),
        (view_of((2, 2), 2, ((0, 1), (1, 0))), [[SQUARE]] * 4, ([[1], [2]], 1)),
        (view_of((5,), 1), [[[2, 3, 3, 0]]], None),
        (view_of((1,)), [], None),
        (View(), [[SQUARE]], None),
    ],
)
def test_each_picture_has_the_grids_of_its_image_or_frame(
    view: View, panels: list[list[list[int]]], found: Any
) -> None:
    assert view.grids(panels) == found


def test_a_view_with_fewer_pictures_has_the_first_images_and_frames_far_apart() -> None:
    images, film = view_of((1,) * 5), view_of((16,), 1)
    assert [one.visual for one in images.fewer(2).pictures] == [0, 1] and images.fewer(2).more == "3 more images"
    assert [one.frame for one in film.fewer(4).pictures] == [2, 6, 10, 14] and film.fewer(4).more == "12 more frames"
    assert [one.frame for one in film.fewer(1).pictures] == [8] and film.fewer(15).more == "1 more frame"
    assert images.fewer(5) == images and images.more == ""


def pixels(picture: Picture) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(picture.url.partition(",")[2])))


def test_all_images_of_a_document_are_pictures_up_to_a_number(tmp_path: Path) -> None:
    many = {**multidocvqa()[0], **{f"image_{number}": P[number] for number in range(1, 11)}}
    broken = {**multidocvqa()[1], "image_1": {"bytes": b"no image", "path": None}}
    ROWS["multidocvqa_val"].put(tmp_path, [*multidocvqa(), many, broken])
    problems: list[str] = []
    found = dict(read(TaskSpec("multidocvqa_val", str(tmp_path), "native"), range(5), [None], problems))
    views = {doc: sample.view((True, None)) for doc, sample in found.items()}
    assert {doc: len(view.pictures) for doc, view in views.items()} == {0: 2, 1: 1, 2: 3, 3: MOST, 4: 0}
    assert [picture.label for picture in views[0].pictures] == ["image 1", "image 2"]
    assert [picture.label for picture in views[1].pictures] == [""]
    assert views[3].more == "2 more images" and len(problems) == 1 and "ImageError: not an image" in problems[0]
    assert found[4].question and found[0].view((False, Sampling())) == views[0], "no video: no matter which frames"


def test_frames_are_those_that_the_model_was_shown(tmp_path: Path) -> None:
    """Each model's own, by the sampling of its cell, with their number and time; their greys tell them apart."""
    own = tmp_path / get_task("videomme").source.folder
    write_film(own / CASES["videomme"].films[0], frames=30, rate=10, codec="mpeg4")
    put("videomme", own)
    few, many = Sampling(4, spacing="middles"), Sampling(16, multiple=2)
    problems: list[str] = []
    found = dict(read(TaskSpec("videomme", str(tmp_path), "native"), [0], [few, many], problems))
    assert problems == []
    for sampling, frames, labels in (
        (few, range(4), ["frame 1, 0.3 s", "frame 2, 1.1 s", "frame 3, 1.8 s", "frame 4, 2.6 s"]),
        (many, range(1, 16, 2), ["frame 2, 0.1 s", "frame 4, 0.5 s"]),
    ):
        view, places = found[0].view((True, sampling)), sampling.places(30, 10)
        assert view.frames == (len(places),) and [one.frame for one in view.pictures] == list(frames)
        assert [one.label for one in view.pictures][: len(labels)] == labels
        for picture in view.pictures:
            width, height = (image := pixels(picture).convert("L")).size
            assert image.getpixel((width // 2, height - 4)) == pytest.approx(8 * places[picture.frame], abs=4)
    list(read(TaskSpec("videomme", str(tmp_path), "native"), [0], [None], problems))
    assert problems == ["UserError: the journal does not say which frames of the videos were shown"]


def test_samples_lose_frames_before_samples_are_left_out() -> None:
    """Each picture takes 10 characters, and two samples are about one film."""

    def film(name: str) -> ShownSample:
        pictures = tuple(Picture(f"{name}{place:09}", f"frame {place + 1}", frame=place) for place in range(8))
        return ShownSample("?", {(True, None): View(pictures, (8,), 1)})

    asked = {1: film("a"), 2: film("a"), 3: film("b")}
    row: dict[str, Any] = {"answer": "a", "score": 1.0, "error": None, "target": "a", "category": None, "reading": "a"}
    row |= {"visual_tokens": 64, "whole": True, "panels": [[[4, 4, 4, 0]]], "kept": [[1, pack([0], 64)]]}
    answers: Any = {"m/v/t": [{**row, "doc_id": doc} for doc in asked]}
    kinds: Any = {"m/v/t": dict.fromkeys(asked, "same")}
    for room, samples, each in ((160, 3, 8), (159, 3, 7), (40, 3, 2), (20, 3, 1), (19, 2, 1)):
        found = PageSamples()
        listed = _listed([*asked], answers, kinds, {"m/v/t": 64}, {"m/v/t": None}, asked, found, (room, 9999))
        assert (len(listed), {len(sample["views"][0]["pictures"]) for sample in listed}) == (samples, {each})
        assert sum(map(len, found.images)) <= room
        assert len(found.images) == each * (2 if samples == 3 else 1), "a film is stored once"
        assert listed[0]["views"][0]["more"] == ("" if each == 8 else f"{8 - each} more frame" + "s" * (each < 7))
        answer = listed[0]["answers"]["m/v/t"]
        assert (answer["view"], answer["span"], len(answer["on"])) == (0, 2, each)
    found = PageSamples()
    full = _listed([*asked], answers, kinds, {"m/v/t": 64}, {"m/v/t": None}, asked, found, (80, 250))
    assert len(full) == 2 and len(found.images) == 8, "samples without room for their answers take no pictures away"
