"""What is wrong with the videos of a task, found before a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from evals.tasks.base import JoinedVideos
from evals.tasks.data import Files, TaskSpec, download
from evals.tasks.video_files import videos_of
from hidrop.errors import shortened
from hidrop.videos import VideoError


def problems(spec: TaskSpec, files: Files) -> Iterator[str]:
    """Videos that are not there, and those that are no files inside the data's folder: one line for each kind."""
    videos = spec.source.videos
    if videos is None:
        return
    found = videos_of(spec.source, files)
    lacking = [video.name for video in found if not any((start / video.name).exists() for start in video.starts)]
    if lacking:
        more = f" and {len(lacking) - 1:,} more" if len(lacking) > 1 else ""
        yield (
            f"{files.start}: {len(lacking):,} of {len(found):,} videos are not there: {shortened(lacking[0])}{more}. "
            f"{_way(spec, videos, files)}"
        )
        return
    for video in found:
        try:
            _ = video.path
        except VideoError as error:
            yield f"{files.start}: {error}. Put the file itself there"
            return


def _way(spec: TaskSpec, videos: JoinedVideos, files: Files) -> str:
    """How to get videos that are not there."""
    target = (files.start / videos.into).resolve()
    unpack = f"unzip -n '{files.start}/{videos.archives}' -d {shlex.quote(str(target))}"
    if zips := sorted(files.start.glob(videos.archives)):
        return f"{len(zips)} zip files are there. Unpack them with: {unpack}"
    return f"Get them with: {download(spec)}, and unpack them with: {unpack}"
