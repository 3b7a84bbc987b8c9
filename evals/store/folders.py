"""Reads results folders: the document and the samples of one, and a list of all with their state."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import isclose
from pathlib import Path
from typing import Literal, cast

from evals.store import lock, recomputed
from evals.store.cell_files import SUBMISSIONS, existing, finished
from evals.store.journal import Lines
from evals.store.records import ResultRecord, ScoredAnswer
from evals.store.result_document import RESULTS, CellEntry, ResultDocument, cell_key
from hidrop.errors import UserError
from hidrop.regular_files import file_state, own_folder

DOCUMENT = "leaderboard.json"
# The folders inside of a results folder that a run and a repair write.
INSIDE = ("samples", "samples/parts", "samples/replaced", "failures", "profiles", SUBMISSIONS)


def check_inside(folder: Path, *more: str) -> None:
    """Raises UserError if a folder inside of a results folder is a link, one of `more` too. `folder` may be one."""
    for name in (*INSIDE, *more):
        own_folder(folder / name)


def read_document(place: str | Path) -> ResultDocument:
    """leaderboard.json of a folder, or of a folder in a commit ("REV:results/mini"). Raises UserError."""
    text = str(place)
    if not Path(text).exists() and ":" in text:
        revision, folder = text.split(":", 1)
        return RESULTS.parsed(of_commit(revision, f"{folder.rstrip('/')}/{DOCUMENT}"), text)
    return RESULTS.read(Path(text) / DOCUMENT)


def of_commit(revision: str, path: str) -> str:
    """The text of a file in a commit. Raises UserError."""
    name, done = f"{revision}:{path}", _shown_by_git(revision, path)
    if done.returncode:
        raise UserError(f"{name}: git cannot show it: {done.stderr.decode(errors='replace').strip()}")
    try:
        return done.stdout.decode()
    except UnicodeDecodeError:
        raise UserError(f"{name}: not UTF-8 text") from None


def in_commit(revision: str, path: str) -> bytes | None:
    """A file in a commit; None if the commit does not have it."""
    done = _shown_by_git(revision, path)
    return None if done.returncode else done.stdout


def _shown_by_git(revision: str, path: str) -> subprocess.CompletedProcess[bytes]:
    name = f"{revision}:{path}"
    return subprocess.run(["git", "show", "--end-of-options", name], capture_output=True, check=False)


def samples_file(folder: Path, cell: CellEntry) -> Path | None:
    """The journal of a cell of the document, whatever label it was answered under; None if it is missing."""
    found = existing(folder, cell["id"]) if cell["id"] else []
    return next((path for path in found if path.is_file()), None)


def samples_of(folder: Path, cell: CellEntry) -> list[ScoredAnswer] | None:
    """Answer and score of each sample of a finished cell, in the order of doc_id; None if its journal is missing.

    Raises UserError for a damaged journal, for a result that its scores do not give, and if the cell of the document
    says something else.
    """
    lines = _journal_of(folder, cell)
    if lines is None or lines.result is None:
        return None
    if problem := _difference(cell, lines.result):
        raise UserError(f"{folder / DOCUMENT}: {problem} ({lines.path}). {RESULTS.remedy(str(folder / DOCUMENT))}")
    answers, scores = lines.answers, {record["doc_id"]: record for record in lines.scores}
    merged = [{**answers[doc_id], **scores[doc_id]} for doc_id in sorted(scores) if doc_id in answers]
    return cast("list[ScoredAnswer]", merged)


def contradiction_with(folder: Path, document: ResultDocument, without: Collection[Path] = ()) -> str | None:
    """The first cell of a document whose journal, if it is there, gives another result, in words.

    Also a share of vanilla's value that is not the cell's own. without: journals to skip. Raises UserError for a
    damaged one.
    """
    values = {cell_key(cell): cell["value"] for cell in document["cells"]}
    for cell in document["cells"]:
        if problem := _wrong_percent(cell, values.get(str(cell["base"]))):
            return problem
        lines = None if samples_file(folder, cell) in without else _journal_of(folder, cell)
        if lines and lines.result and (problem := _difference(cell, lines.result)):
            return f"{problem} ({lines.path})"
    return None


def _wrong_percent(cell: CellEntry, base: float | None) -> str | None:
    """`base`: the value that the cell is compared with."""
    value, percent = cell["value"], cell["percent_of_vanilla"]
    if value is None or percent is None or not base or isclose(percent, 100 * value / base):
        return None
    return f"{cell_key(cell)}: percent_of_vanilla is {percent}, but the values give {100 * value / base}"


def _journal_of(folder: Path, cell: CellEntry) -> Lines | None:
    path = samples_file(folder, cell)
    if path is None:
        return None
    lines = Lines.of(path)
    recomputed.check(path, lines.header["identity"], lines.records)
    return lines


def _difference(cell: CellEntry, result: ResultRecord) -> str | None:
    """What a cell of a document says and its journal does not, in words."""
    names: tuple[Literal["metric", "value", "n", "n_failed"], ...] = ("metric", "value", "n", "n_failed")
    for name in names:
        if cell[name] != result[name]:
            return f"{cell_key(cell)}: {name} is {cell[name]}, but the cell's journal says {result[name]}"
    return None


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


def below(base: Path) -> Iterator[Path]:
    """Every results folder at or below `base`, not deeper than two levels."""
    for folder in sorted({base, *base.glob("*"), *base.glob("*/*")}):
        if (folder / "samples").is_dir() or (folder / DOCUMENT).is_file():
            yield folder


def states(base: Path, ended: Callable[[Path], bool] = finished) -> Iterator[State]:
    """The state of each results folder below `base`."""
    return (state(folder, ended) for folder in below(base))


def state(folder: Path, ended: Callable[[Path], bool] = finished) -> State:
    """The state of a results folder. ended: whether a journal is finished. A document is read again if it changed."""
    journals = [*folder.glob("samples/*.jsonl")]
    done = [path for path in journals if ended(path)]
    parts = {path.name.rsplit(".", 2)[0] for path in folder.glob("samples/parts/*.jsonl")}
    unfinished = {path.stem for path in journals if path not in done} | parts
    begun, failed = len(unfinished), len([*folder.glob("failures/*.txt")])
    busy = lock.holder(folder) or "-"
    try:
        matrix, date, cells, hardware = _summary(folder, file_state(folder / DOCUMENT))
    except (UserError, OSError):  # no document yet, or a damaged one, which `doctor` reports
        return State(folder, "-", "-", len(done), begun, failed, "-", busy)
    return State(folder, matrix, date, len(done) or cells, begun, failed, hardware, busy)


@lru_cache(maxsize=1024)
def _summary(folder: Path, at: tuple[int, ...]) -> tuple[str, str, int, str]:
    """Matrix, date, number of cells and hardware of a document in the state `at` (`file_state`)."""
    document = read_document(folder)
    hardware = document["hardware"]
    date = document["date"][:16].replace("T", " ")
    return document["matrix"], date, len(document["cells"]), hardware.get("gpu") or hardware["cpu"]
