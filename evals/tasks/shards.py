"""The shards of one download, by their names: which are missing, there twice, or do not belong to the others."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from evals.tasks.base import Source
from evals.tasks.data import Files
from hidrop.errors import shortened, some_of

# Of a file name such as test-00000-of-00003.parquet, or with a hash after the number of shards.
SHARD = re.compile(r"(?P<stem>.*)-(?P<index>[0-9]+)-of-(?P<count>[0-9]+)(-[0-9a-f]+)?\.parquet")
SHOWN = 5  # names in a message


def problems(source: Source, files: Files) -> Iterator[str]:
    """Files that are not the shards of one download, each with its folder and what to do.

    A task reads all files that match its glob. So a browser's second copy of a shard would be asked twice.
    """
    # The embedded benchmark's layout, or a source that names its only file.
    one_file = files.questions == (files.start / source.plain,) or "*" not in source.files
    for paths in (() if one_file or files.originals else files.questions, files.images):
        for own in _sets(paths) if source.every else [paths] if paths else []:
            named = any(SHARD.fullmatch(path.name) for path in own)
            if (source.others or source.paths or source.every) and not named:
                continue  # files with names of their own
            yield from _strange(source, own) or _incomplete(own)


def _sets(paths: Sequence[Path]) -> list[Sequence[Path]]:
    """Files of several sets of shards, by set."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        match = SHARD.fullmatch(path.name)
        found[match["stem"] if match else ""].append(path)
    return list(found.values())


def _strange(source: Source, paths: Sequence[Path]) -> list[str]:
    """Files with another name than a shard has, and shards of several sets."""
    folder, names = paths[0].parent, [path.name for path in paths]
    found = {name: match for name in names if (match := SHARD.fullmatch(name))}
    numbered = {name for name, match in found.items() if int(match["index"]) < int(match["count"])}
    if strange := [name for name in names if name not in numbered]:
        shown = some_of([shortened(name) for name in strange], SHOWN)
        like = f"{source.split}-00000-of-00001.parquet"
        return [f"{folder}: not the name of a shard, such as {like}: {shown}. Move away what does not belong here"]
    if len(stems := sorted({match["stem"] for match in found.values()})) > 1:
        return [f"{folder}: shards of several sets: {', '.join(stems)}. Keep those of one"]
    return []


def _incomplete(paths: Sequence[Path]) -> list[str]:
    """Shards of one set that are missing, there twice, or of another download."""
    found = [match for path in paths if (match := SHARD.fullmatch(path.name))]
    folder, stem, counts = paths[0].parent, found[0]["stem"], sorted({match["count"] for match in found})
    if len(counts) > 1:
        return [f"{folder}: {stem} has files of {' and of '.join(counts)} shards. Keep those of one download"]
    names: dict[int, list[str]] = defaultdict(list)
    for match in found:
        names[int(match["index"])].append(match[0])
    lines = [
        f"{folder}: the same shard twice: {', '.join(sorted(several))}. Keep the newer one"
        for several in names.values()
        if len(several) > 1
    ]
    total = int(counts[0])
    if (lacking := total - len(names)) > 0:
        first = [f"{n:05d}" for n in range(min(total, len(names) + SHOWN)) if n not in names][:SHOWN]
        more = f" and {lacking - len(first)} more" if lacking > len(first) else ""
        lines.append(f"{folder}: {stem} has {total - lacking} of {total} shards. Missing: {', '.join(first)}{more}")
    return lines
