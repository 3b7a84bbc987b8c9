"""Data sets in the Hugging Face Hub's cache: finding them without the network, explaining them, and downloading them.

The cache holds a folder `datasets--owner--name` for each repository, with `refs/main` (a commit) and a folder of files
in `snapshots/` for each commit.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
from pathlib import Path
from typing import Any

from evals.tasks.base import Source
from hidrop.errors import UserError, in_a_line

PREFIX = "datasets--"
SPLITS = ("train", "validation", "val", "test", "dev", "testdev", "testmini", "challenge")


def cache() -> Path:
    """The cache that huggingface_hub uses, as its environment variables say."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def offline() -> bool:
    """Whether the user forbids the network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def folder_name(repository: str) -> str:
    return PREFIX + repository.replace("/", "--")


def snapshot(folder: Path, revision: str | None = None) -> Path | None:
    """The snapshot of a repository's folder that a revision (`refs/main`) names, or else its only one. None without."""
    try:
        found = folder / "snapshots" / (folder / "refs" / (revision or "main")).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        several = [place for place in _children(folder / "snapshots") if os.path.isdir(place)]
        return several[0] if len(several) == 1 else None
    return found if os.path.isdir(found) else None


def is_cache(folder: Path) -> bool:
    """Whether a folder is the cache: it has folders of data sets."""
    return any(place.name.startswith(PREFIX) for place in _children(folder))


def snapshot_below(root: Path, repository: str) -> Path | None:
    """A repository's snapshot, where `root` is the cache, a folder with `hub/` (HF_HOME), or the repository's own."""
    own = root.parent if root.name == "snapshots" else root
    places = [own] if own.name.startswith(PREFIX) else []
    name = folder_name(repository)
    return next(filter(None, map(snapshot, [*places, root / name, root / "hub" / name])), None)


def bounds_of(place: Path) -> Path:
    """The folder that holds all files of a data set at `place`: a snapshot's files are links into its repository's."""
    inside = place.parent.name == "snapshots" and place.parent.parent.name.startswith(PREFIX)
    return place.parent.parent if inside else place


def explained(root: Path, repository: str) -> str:
    """Why a folder of the Hub's cache gives no data of a repository; "" for any other folder."""
    own = root.parent if root.name == "snapshots" else root
    if own.name.startswith(PREFIX):
        found = own.name.removeprefix(PREFIX).replace("--", "/", 1)
        if found != repository:
            return f"This is the Hub cache's folder of {found}, not of {repository}"
        if snapshot(own) is None:
            count = len(_children(own / "snapshots"))
            return f"This is the Hub cache's folder of {found} with {count} snapshots and no refs/main. Name a snapshot"
        return f"This is the Hub cache's folder of {found}, but its snapshot lacks these files"
    base = root / "hub" if is_cache(root / "hub") else root
    others = sorted(place.name for place in _children(base) if place.name.startswith(PREFIX))
    if not others:
        return ""
    if folder_name(repository) in others:
        return explained(base / folder_name(repository), repository)
    names = ", ".join(name.removeprefix(PREFIX).replace("--", "/", 1) for name in others[:5])
    return f"This is the Hub's cache, but it has no {repository} (it has {names}{', ...' if others[5:] else ''})"


def download_command(source: Source, *where: str) -> str:
    """The command that downloads a task's official files, with their size. `where`: options such as --local-dir."""
    wanted = " ".join(f'--include "{pattern}"' for pattern in source.globs)
    options = " ".join(option if option.startswith("--") else shlex.quote(option) for option in where)
    size = f" (about {_size(source.megabytes)})" if source.megabytes else ""
    named = f"{source.repository} --revision {source.revision}" if source.revision else source.repository
    return f"hf download --repo-type dataset {named} {wanted} {options}".rstrip() + size


def _size(megabytes: int) -> str:
    return f"{megabytes} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"


@functools.cache
def fetch(source: Source) -> None:
    """Download a task's files to the cache, once in a process; files that are there are not downloaded again.

    Without the network, what an earlier download left is used. Raises UserError if there is nothing.
    """
    there = snapshot(cache() / folder_name(source.repository), source.revision)
    if offline() and there is not None:
        return
    from huggingface_hub import snapshot_download

    try:
        patterns = list(source.globs)
        snapshot_download(source.repository, repo_type="dataset", revision=source.revision, allow_patterns=patterns)
    except Exception as error:  # of the network, of the server, or of the cache's folder
        if there is None:
            raise UserError(
                f"{source.repository}: cannot be downloaded ({in_a_line(error)}), and it is not in the Hub's cache "
                f"({cache()}). Get it with: {download_command(source)}"
            ) from error


def declared(place: Path, config: str | None, split: str) -> tuple[Path, ...]:
    """The files of a split that the README of a repository names in its `configs`, if it does and they are there."""
    import yaml

    try:
        text = (place / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return ()
    for one in (front.get("configs") if isinstance(front, dict) else None) or ():
        if not isinstance(one, dict) or one.get("config_name", "default") != (config or "default"):
            continue
        own = one.get("data_files")
        for files in own if isinstance(own, list) else [{"split": "train", "path": own}]:
            if isinstance(files, dict) and files.get("split") == split:
                named = files.get("path")
                found = [
                    path
                    for name in ([named] if isinstance(named, str) else named or ())
                    for path in _match(place, name)
                ]
                return tuple(sorted(dict.fromkeys(found)))
    return ()


def _match(place: Path, pattern: Any) -> list[Path]:
    """The files that a README's pattern names, inside the repository only."""
    bounds = bounds_of(place).resolve()
    try:
        found = [path for path in place.glob(str(pattern)) if path.is_file()]
    except (ValueError, NotImplementedError):  # an absolute pattern, or an empty one
        return []
    return [path for path in found if bounds in path.resolve().parents]


def other_split(path: Path, split: str) -> bool:
    """Whether a file's name begins with the name of another split than the one that is asked."""
    first = re.split(r"[^a-z]", path.name.lower())[0]
    return first in SPLITS and not split.lower().startswith(first)


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (OSError, ValueError):
        return []
