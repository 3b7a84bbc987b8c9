"""The videos of a task: the file of each document, and what tells one set of them from another."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.tasks.base import JoinedVideos, Source
from hidrop.regular_files import Unreadable, file_state, opened
from hidrop.videos import VideoError, VideoFile

if TYPE_CHECKING:
    from evals.tasks.data import Files

START = 1 << 20  # bytes of a video that its digest reads


def apart(visuals: Sequence[Any]) -> tuple[list[Any], list[VideoFile]]:
    """The images and the videos of what a document shows. A video is a file, or a path from lmms-eval's own tasks."""
    paths = [one for one in visuals if isinstance(one, VideoFile | str)]
    videos = [VideoFile(Path(one).parent, Path(one).name) if isinstance(one, str) else one for one in paths]
    return [one for one in visuals if not isinstance(one, VideoFile | str)], videos


def file_of(videos: JoinedVideos, files: Files, doc: Mapping[str, Any]) -> VideoFile:
    """The video of a document, whether it is there or not."""
    names = [f"{videos.folder}/{doc[videos.key]}{ending}" for ending in videos.endings]
    name = next((name for name in names if (files.start / name).exists()), names[0])
    return VideoFile(files.root, name, (files.start,))


def videos_of(source: Source, files: Files) -> list[VideoFile]:
    """The videos of all documents, each once."""
    import pyarrow.parquet as parquet

    videos = source.videos
    assert videos is not None
    keys: dict[Any, None] = {}
    for path in files.questions:
        keys.update(dict.fromkeys(parquet.read_table(path, columns=[videos.key])[videos.key].to_pylist()))
    return [file_of(videos, files, {videos.key: key}) for key in keys]


def digests(source: Source, files: Files) -> Iterator[str]:
    """A line for each video: its name, its size, and a digest of its first MiB. Reading all of them takes minutes."""
    for video in videos_of(source, files):
        try:
            yield f"{video.name}\0{_digest(video.path, file_state(video.path))}\n"
        except (VideoError, Unreadable, OSError):
            yield f"{video.name}\0unreadable\n"


def digest_of(paths: Sequence[Path]) -> str:
    """A digest of video files, by their names, sizes and beginnings; a file that is not there counts as that."""
    found = hashlib.sha256()
    for path in paths:
        try:
            found.update(f"{path.name}\0{_digest(path, file_state(path))}\n".encode())
        except (Unreadable, OSError):
            found.update(f"{path.name}\0unreadable\n".encode())
    return found.hexdigest()


@functools.lru_cache(maxsize=1 << 14)
def _digest(path: Path, state: Sequence[int]) -> str:
    """`state` is part of the cache's key, so that a file that was replaced is read again."""
    with opened(path) as file:
        return f"{state[0]} {hashlib.sha256(file.read(START)).hexdigest()}"
