"""`run.py doctor`: what is damaged in a results folder, and what a repair would drop.

A torn last line is no damage: whoever writes next cuts it off. A damaged line elsewhere costs its own record; a cell
that had been scored is then scored again, so its scores and result are dropped with it. Samples that lose their answer
are asked again by the next run. The damaged file is kept beside the repaired one, as NAME.damaged.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.store import records
from evals.store.journal import SCHEMA, canonical, identity_hash, write_atomically
from hidrop.errors import UserError


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a file. `kept`: the lines of its repaired state; None: it is put away whole."""

    path: Path
    problem: str
    drops: str
    kept: tuple[str, ...] | None

    def repair(self) -> None:
        """Put the damaged file aside and, where something can be kept, a good one in its place."""
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
    """Everything that is damaged in a results folder. Raises UserError when it is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    journals = sorted([*folder.glob("samples/*.jsonl"), *folder.glob("samples/parts/*.jsonl")])
    documents = sorted([*folder.glob("leaderboard.json"), *folder.glob("profiles/*.json")])
    if not journals and not documents:
        raise UserError(f"{folder}: not a results folder (no samples/, no leaderboard.json)")
    found = [_journal(path) for path in journals] + [_document(path) for path in documents]
    return [finding for finding in found if finding]


def _document(path: Path) -> Finding | None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return Finding(path, "not JSON", "nothing that the next run does not make again", None)
    return None


def _journal(path: Path) -> Finding | None:
    lines = path.read_bytes().split(b"\n")[:-1]  # behind the last line break is a torn line, or nothing
    if not lines:
        return None
    header, *found = [_record(line) for line in lines]
    if header is None or header["kind"] != "cell":
        return Finding(path, "its first line is damaged: nobody knows which cell it is", "all of it", None)
    if header["schema"] != SCHEMA:
        return Finding(path, f"written by another version (schema {header['schema']})", "all of it", None)
    if header["id"] != identity_hash(header["identity"]):
        return Finding(path, "its first line does not fit together", "all of it", None)
    good = [record for record in found if record is not None and record["kind"] != "cell"]
    bad = [number for number, record in enumerate(found, start=2) if record is None or record["kind"] == "cell"]
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


def _record(line: bytes) -> dict[str, Any] | None:
    """A journal's record, or None for a line that is none."""
    try:
        return records.parsed(line)
    except ValueError:
        return None
