"""Frames of videos: which ones, from which files, and one line for each kind of broken file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hidrop.errors import UserError
from hidrop.videos import Excerpt, Sampling, Video, VideoError, VideoFile, read_video, spread
from tests.films import grey, write_film

# Keyframes every five frames and frames that refer to later ones: a seek that goes wrong shows another frame.
KINDS = {
    "mpeg4.mp4": dict(codec="mpeg4", g="5"),
    "x264.mp4": dict(codec="libx264", g="5", bf="2"),
    "whole.mkv": dict(codec="ffv1"),
    "untimed.avi": dict(codec="mpeg4", g="5"),
}


def numbers(video: Video) -> list[int]:
    """The numbers of the frames, read from their greys."""
    greys = [frame.getpixel((frame.width // 2, frame.height - 4))[0] for frame in video.frames]
    return [min(range(31), key=lambda number: abs(grey(number) - value)) for value in greys]


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_that_were_asked_for(name: str, tmp_path: Path) -> None:
    path = write_film(tmp_path / name, frames=30, rate=10, **KINDS[name])  # type: ignore[arg-type]
    for frames in (1, 2, 5, 7, 30, 64):
        video = read_video(path, Sampling(frames, spacing="nearest"))
        assert video.total == 30 and video.rate == 10
        assert numbers(video) == list(video.places)
        assert {(frame.mode, frame.size) for frame in video.frames} == {("RGB", (64, 48))}
        assert video.seconds == tuple(place / 10 for place in video.places)
        assert video.sampled_rate == pytest.approx(len(video.frames) / 3)


@pytest.mark.parametrize(
    ("sampling", "total", "rate", "places"),
    [
        (Sampling(4), 10, 5, (0, 3, 6, 9)),
        (Sampling(4), 12, 5, (0, 3, 7, 11)),  # 3.67, 7.33 down
        (Sampling(4, spacing="nearest"), 12, 5, (0, 4, 7, 11)),
        (Sampling(3, spacing="nearest"), 4, 5, (0, 2, 3)),  # 1.5 goes to the even frame
        (Sampling(4, spacing="middles"), 16, 5, (2, 6, 10, 14)),
        (Sampling(32), 3, 5, (0, 1, 2)),
        (Sampling(1), 9, 5, (0,)),
        (Sampling(32, multiple=2), 7, 5, (0, 1, 2, 3, 4, 6)),  # six of seven: 0, 1.2, 2.4, 3.6, 4.8, 6
        (Sampling(32, multiple=2), 1, 5, (0, 0)),
        (Sampling(768, fps=2, spacing="nearest", multiple=2, least=4), 100, 25, (0, 14, 28, 42, 57, 71, 85, 99)),
        (Sampling(768, fps=2, spacing="nearest", multiple=2, least=4), 25, 25, (0, 8, 16, 24)),  # 1 s, but four frames
        (Sampling(6, fps=2, spacing="nearest"), 100, 25, (0, 20, 40, 59, 79, 99)),
    ],
)
def test_the_numbers_of_frames_by_hand(sampling: Sampling, total: int, rate: float, places: tuple[int, ...]) -> None:
    assert sampling.places(total, rate) == places


def test_an_excerpt_has_some_of_the_frames_that_a_sampling_takes(tmp_path: Path) -> None:
    path, sampling = write_film(tmp_path / "a.mkv", frames=30, rate=10), Sampling(16, multiple=2)
    taken, some = read_video(path, sampling), read_video(path, Excerpt(sampling, 4))
    assert spread(16, 4) == (2, 6, 10, 14) and spread(3, 4) == (0, 1, 2) and spread(9, 1) == (4,)
    assert numbers(some) == [numbers(taken)[place] for place in spread(16, 4)]
    assert read_video(path, Excerpt(sampling, 16)).places == taken.places


def test_a_user_states_frames_and_a_rate() -> None:
    own = Sampling(768, fps=2, least=4, multiple=2)
    assert own.stated(None, None) == own
    assert own.stated(16, None) == Sampling(16, fps=None, least=4, multiple=2)
    assert own.stated(2, 1) == Sampling(2, fps=1, least=2, multiple=2)
    for frames, fps in (
        (0, None),
        (1, None),
        (True, None),
        (5000, None),
        (None, 0),
        (None, -1.0),
        (None, float("nan")),
    ):
        with pytest.raises(UserError, match="frames: " if fps is None else "fps: "):
            own.stated(frames, fps)


def problem(path: Path) -> str:
    with pytest.raises(VideoError) as error:
        read_video(path, Sampling(4))
    assert "\n" not in str(error.value) and str(path.parent) not in str(error.value)
    return str(error.value)


def test_broken_files_are_one_line_each(tmp_path: Path) -> None:
    whole = write_film(tmp_path / "whole.mp4", frames=30, codec="mpeg4")
    content, path = whole.read_bytes(), tmp_path / "a.mp4"
    for broken in (b"", b"text, no video", content[:10], content[: len(content) // 2]):
        path.write_bytes(broken)
        assert problem(path) == "a.mp4: broken video: Invalid data found when processing input"
    cut = write_film(tmp_path / "cut.mkv", frames=30, rate=10)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 3])
    assert problem(cut).startswith("cut.mkv: broken video: cut off, it has ")


def test_a_picture_that_was_cut_off_behind_its_index_is_found(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", frames=30, codec="mpeg4", movflags="faststart")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert problem(path).startswith("a.mp4: broken video: ")


def test_files_without_a_video_or_frames_are_one_line_each(tmp_path: Path) -> None:
    import av
    import numpy as np

    sound = tmp_path / "sound.mkv"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    assert problem(sound) == "sound.mkv: no video in this file"
    assert problem(write_film(tmp_path / "empty.avi", frames=0)) == "empty.avi: the video has no frames"


def test_only_files_inside_the_folder_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    outside = write_film(tmp_path / "outside.mkv", frames=2)
    write_film(folder / "clips/a.mkv", frames=2)
    assert len(VideoFile(folder, "clips/a.mkv").read(Sampling(4)).frames) == 2
    os.symlink(outside, folder / "link.mkv")
    os.mkfifo(folder / "pipe.mkv")
    for name, words in {
        "../outside.mkv": "leads out of the folder of the videos",
        "link.mkv": "leads out of the folder of the videos",
        str(outside): "leads out of the folder of the videos",
        "none.mkv": "cannot be read: No such file or directory",
        "clips": "not a regular file",
        "pipe.mkv": "not a regular file",
        "https://a.b/c.mkv": "an address",
    }.items():
        with pytest.raises(VideoError, match=words):
            VideoFile(folder, name).read(Sampling(4))


def test_without_pyav_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"videos need PyAV.*pip install"):
        read_video(tmp_path / "a.mp4", Sampling())
