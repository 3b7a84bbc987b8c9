"""The folders that a training reads its model from, which it must not write into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hidrop.errors import UserError
from hidrop.models.original import is_original
from hidrop.models.sources import find, read_config


def own_folders(sources: Iterable[str | Path], folders: Mapping[str, Path]) -> list[str]:
    """A line for each of a training's `folders`, by what they are called, that `overwritten` refuses."""
    sources = list(sources)
    found = ((name, folder, overwritten(sources, folder)) for name, folder in folders.items())
    return [f"{name} {folder} {problem}" for name, folder, problem in found if problem]


def overwritten(sources: Iterable[str | Path], folder: Path) -> str | None:
    """Why writing a checkpoint into `folder` could change one that a training starts from; None if it cannot.

    sources: names of checkpoints as for `find`. Those that are not there are passed over. Links are followed: a folder
    that is the same one by another name, one inside the other, and a file in `folder` that is a source's file (a link).
    """
    target = folder.resolve()
    for source in sources:
        for origin in _folders(source):
            place = origin.resolve()
            if target == place:
                found = f"is the folder of {source}, which the training starts from"
            elif target.is_relative_to(place) or place.is_relative_to(target):
                inside = "inside" if target.is_relative_to(place) else "around"
                found = f"is {inside} the folder of {source} ({place}), which the training starts from"
            elif shared := sorted(_files(target).keys() & _files(place).keys()):
                name = _files(target)[shared[0]]
                found = f"has a link to a file of {source}, which the training starts from ({name})"
            else:
                continue
            return f"{found}. Its files could be overwritten. Choose another folder"
    return None


def _folders(source: str | Path) -> list[Path]:
    """A checkpoint's folder, and that of a separate vision tower of one in the original layout."""
    from hidrop.models.original import tensors

    try:
        folder = find(source)
        raw = read_config(folder)
        return [folder, *(tensors.other_folders(folder, raw) if is_original(raw) else [])]
    except UserError:  # whoever loads it says so
        return []


def _files(folder: Path) -> dict[tuple[int, int], str]:
    """Names of the files in a folder by what they are on disk, whatever links lead there."""
    if not folder.is_dir():
        return {}
    stats = ((file.name, file.stat()) for file in folder.iterdir() if file.is_file())
    return {(stat.st_dev, stat.st_ino): name for name, stat in stats}
