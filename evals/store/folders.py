"""Reads results folders: the document and the samples of one, and a list of all with their state."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from evals.store.journal import Lines, place
from evals.store.records import ScoredAnswer
from evals.store.result_document import RESULTS, CellEntry, ResultDocument, cell_key
from hidrop.errors import UserError

BLOCK = 1 << 16  # bytes


def read_document(place: str | Path) -> ResultDocument:
    """leaderboard.json of a folder, or of a folder in a commit ("REV:results/mini"). Raises UserError."""
    text = str(place)
    if not Path(text).exists() and ":" in text:
        return RESULTS.parsed(_of_commit(*text.split(":", 1)), text)
    return RESULTS.read(Path(text) / "leaderboard.json")


def _of_commit(revision: str, folder: str) -> str:
    name = f"{revision}:{folder.rstrip('/')}/leaderboard.json"
    done = subprocess.run(["git", "show", name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{name}: git cannot show it: {done.stderr.strip()}")
    return done.stdout


def samples_of(folder: Path, cell: CellEntry) -> list[ScoredAnswer] | None:
    """Answer and score of each sample of a finished cell, in the order of doc_id; None if its journal is missing.

    Raises UserError for a damaged journal.
    """
    path = place(folder, cell_key(cell), str(cell["id"]))
    if not path.exists():
        return None
    lines = Lines.of(path)
    answers, scores = lines.answers, {record["doc_id"]: record for record in lines.scores}
    merged = [{**answers[doc_id], **scores[doc_id]} for doc_id in sorted(scores) if doc_id in answers]
    return cast("list[ScoredAnswer]", merged)


@dataclass(frozen=True)
class State:
    """A results folder in a list. `failed` counts cells and timings, `begun` counts unfinished cells."""

    folder: Path
    matrix: str
    date: str
    done: int
    begun: int
    failed: int
    hardware: str
    busy: str

    def cells(self) -> tuple[str, ...]:
        numbers = str(self.done), str(self.begun), str(self.failed)
        return str(self.folder), self.matrix, self.date, *numbers, self.hardware, self.busy


HEADINGS = ("folder", "matrix", "written", "done", "begun", "failed", "hardware", "in use by")


def states(base: Path) -> Iterator[State]:
    """Every results folder at or below `base`, not deeper than two levels."""
    for folder in sorted({base, *base.glob("*"), *base.glob("*/*")}):
        if (folder / "samples").is_dir() or (folder / "leaderboard.json").is_file():
            yield _state(folder)


def _state(folder: Path) -> State:
    journals = [*folder.glob("samples/*.jsonl")]
    done = [path for path in journals if _finished(path)]
    parts = {path.name.rsplit(".", 2)[0] for path in folder.glob("samples/parts/*.jsonl")}
    unfinished = {path.stem for path in journals if path not in done} | parts
    begun, failed = len(unfinished), len([*folder.glob("failures/*.txt")])
    try:
        document = read_document(folder)
    except UserError:  # no document yet, or a damaged one, which `doctor` reports
        return State(folder, "-", "-", len(done), begun, failed, "-", _holder(folder))
    hardware = document["hardware"]
    return State(
        folder,
        document["matrix"],
        document["date"][:16].replace("T", " "),
        len(done) or len(document["cells"]),
        begun,
        failed,
        hardware.get("gpu") or hardware["cpu"],
        _holder(folder),
    )


def _finished(path: Path) -> bool:
    """Whether a journal's last whole line is its result. Only the end of the file is read."""
    return b'"kind":"result"' in last_line(path)


def last_line(path: Path) -> bytes:
    """The last line of a file that ends with a line break, however long the line is; what follows it was torn off.

    Read backwards in blocks, so that a long file costs no more than its last line.
    """
    with path.open("rb") as file:
        start, found = file.seek(0, os.SEEK_END), b""
        while start and found.count(b"\n") < 2:
            size = min(BLOCK, start)
            start -= size
            file.seek(start)
            found = file.read(size) + found
    *whole, _torn = found.split(b"\n")
    return whole[-1] if whole else b""


def _holder(folder: Path) -> str:
    try:
        return (folder / ".lock").read_text(encoding="utf-8").strip() or "-"
    except OSError:
        return "-"
