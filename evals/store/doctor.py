"""`run.py doctor`: what is damaged in a results folder, and what a repair would drop.

A torn last line is not damage: the next writer cuts it off. A damaged line elsewhere costs its own record. If its cell
was scored already, the scores and the result are dropped too, and the next run makes them again. It also asks the
samples again that lost their answer. The damaged file is kept next to the repaired one, as NAME.damaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from evals.store import records
from evals.store.journal import SCHEMA, canonical, identity_hash, write_atomically
from evals.store.json_files import FileKind
from evals.store.result_document import RESULTS
from evals.store.timings_document import TIMINGS
from hidrop.errors import UserError

Line = TypeVar("Line")


@dataclass(frozen=True)
class Finding:
    """Something wrong with a file. `kept`: the lines of the repaired file; None if the whole file is set aside."""

    path: Path
    problem: str
    drops: str
    kept: tuple[str, ...] | None

    def repair(self) -> None:
        """Set the damaged file aside and, if something can be kept, write a good one in its place."""
        aside = self.path.with_name(self.path.name + ".damaged")
        number = 1
        while aside.exists():
            number += 1
            aside = self.path.with_name(f"{self.path.name}.damaged-{number}")
        aside.write_bytes(self.path.read_bytes())
        if self.kept is None:
            self.path.unlink()
        else:
            write_atomically(self.path, "".join(line + "\n" for line in self.kept))

    def text(self) -> str:
        return f"{self.path}: {self.problem}; a repair drops {self.drops}"


def examine(folder: Path) -> list[Finding]:
    """Everything that is damaged in a results folder. Raises UserError if `folder` is not a results folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    journals = sorted([*folder.glob("samples/*.jsonl"), *folder.glob("samples/parts/*.jsonl")])
    documents: list[tuple[FileKind[Any], Path]] = [(RESULTS, path) for path in folder.glob("leaderboard.json")]
    documents += [(TIMINGS, path) for path in sorted(folder.glob("profiles/*.json"))]
    if not journals and not documents:
        raise UserError(f"{folder}: not a results folder (no samples/, no leaderboard.json)")
    found = [_journal(path) for path in journals] + [_document(kind, path) for kind, path in documents]
    return [finding for finding in found if finding]


def _document(kind: FileKind[Any], path: Path) -> Finding | None:
    try:
        kind.read(path)
    except UserError as error:
        problem = str(error).removeprefix(f"{path}: ").removesuffix(f". {kind.remedy}")
        return Finding(path, problem, "nothing that the next run does not make again", None)
    return None


def _journal(path: Path) -> Finding | None:
    lines = path.read_bytes().split(b"\n")[:-1]  # after the last line break follows a torn line, or nothing
    if not lines:
        return None
    header = _read(records.header, lines[0])
    if header is None:
        return Finding(path, "its first line is damaged, so its cell is unknown", "all of it", None)
    if header["schema"] != SCHEMA:
        return Finding(path, f"written by another version (schema {header['schema']})", "all of it", None)
    if header["id"] != identity_hash(header["identity"]):
        return Finding(path, "its first line contradicts itself", "all of it", None)
    found = [_read(records.sample, line) for line in lines[1:]]
    good = [record for record in found if record is not None]
    bad = [number for number, record in enumerate(found, start=2) if record is None]
    problem = records.unfinished(good)
    if not bad and not problem:
        return None
    lost = Counter(record["kind"] for record in good)
    scored = lost["score"] + lost["result"]
    again = f", and {lost['score']} scores and the result, which are made again" if scored else ""
    place = f"line{'s' if len(bad) > 1 else ''} {', '.join(map(str, bad[:10]))}{' ...' if len(bad) > 10 else ''}"
    kept = [header, *(record for record in good if record["kind"] == "answer")]
    return Finding(
        path, f"{place} damaged" if bad else str(problem), f"{len(bad)} records{again}", tuple(map(canonical, kept))
    )


def _read(kind: Callable[[bytes], Line], line: bytes) -> Line | None:
    """A journal's record, or None for a line that is damaged."""
    try:
        return kind(line)
    except ValueError:
        return None
