"""The journals of a run (one append-only JSON-lines file per cell), and the lock on its folder.

The first line of a journal is its header {"schema": 2, "kind": "cell", "id", "identity"}. Next, in the order of their
creation, are {"kind": "answer", "doc_id", ...} for each sample, then {"kind": "score", "doc_id", ...} for each sample
of a scored task, and {"kind": "result", ...} as the last line of a finished cell. `evals.store.records` has the types.
The next writer cuts off an incomplete last line (the machine went down while it was written). Damage in any other line
is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from evals.store import records
from evals.store.records import AnswerRecord, CellHeader, ResultRecord, SampleRecord, ScoreRecord
from hidrop.errors import UserError
from hidrop.program import program

SCHEMA = 2


def canonical(value: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def identity_hash(identity: Mapping[str, Any]) -> str:
    """sha256 of everything that changes a cell's numbers. Cells with different hashes are different cells."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def header_of(path: Path) -> CellHeader:
    """The first line of a journal. Raises UserError if it is damaged, or the file is not a journal."""
    with path.open("rb") as file:
        first = file.readline()
    try:
        return records.header(first)
    except ValueError:
        raise UserError(f"{path}: not a run's journal, or its first line is damaged") from None


class Lines:
    """One file of a cell's records. The first record creates it, with its header."""

    @classmethod
    def of(cls, path: Path) -> Lines:
        """An existing file of any cell. Raises UserError if it is damaged, or not a journal."""
        return cls(path, header_of(path)["identity"])

    def __init__(self, path: Path, identity: dict[str, Any]):
        self.path = path
        self.id = identity_hash(identity)
        self.header: CellHeader = {"schema": SCHEMA, "kind": "cell", "id": self.id, "identity": identity}
        self.records: list[SampleRecord] = []
        self._file: Any = None
        self._good_bytes = 0
        if path.exists():
            self._read()

    @property
    def answers(self) -> dict[int, AnswerRecord]:
        """The answers by doc_id."""
        return {record["doc_id"]: record for record in self.records if record["kind"] == "answer"}

    @property
    def scores(self) -> list[ScoreRecord]:
        return [record for record in self.records if record["kind"] == "score"]

    @property
    def result(self) -> ResultRecord | None:
        """The result of a finished cell."""
        return next((record for record in self.records if record["kind"] == "result"), None)

    def _read(self) -> None:
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                record = records.header(line) if number == 1 else records.sample(line)
            except ValueError as error:
                raise self._damaged(f"line {number} is damaged ({error})") from None
            if record["kind"] == "cell":
                self._check_header(record)
            else:
                self.records.append(record)
            self._good_bytes += len(line) + 1
        if problem := records.unfinished(self.records):
            raise self._damaged(problem)

    def _damaged(self, problem: str) -> UserError:
        way = f"`{program()} doctor` repairs it; without the file the cell runs again"
        return UserError(f"{self.path}: {problem}. {way}")

    def _check_header(self, header: CellHeader) -> None:
        if header["schema"] != SCHEMA:
            raise UserError(
                f"{self.path}: written by another version of hidrop (schema {header['schema']}, this version reads "
                f"{SCHEMA}). Read it with that version, or move it away: without it the cell runs again"
            )
        if header["id"] != identity_hash(header["identity"]):
            raise self._damaged("its first line contradicts itself: the id is not the hash of the identity")
        if header["id"] != self.id:
            raise UserError(
                f"{self.path}: the file name belongs to a different cell than its contents. Move or delete it"
            )

    def append(self, *made: Mapping[str, Any]) -> None:
        """Write the records and fsync, so that they survive a crash of the process or the machine.

        Raises ValueError, before anything is written, for a record that the reader would refuse.
        """
        lines = [canonical(records.checked(record)) for record in made]
        text = "".join(line + "\n" for line in lines)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer, because a buffer would write failed data again when the file is closed.
            self._file = self.path.open("ab", buffering=0)
            self._file.truncate(self._good_bytes)
            if self._good_bytes == 0:
                text = canonical(self.header) + "\n" + text
        data = text.encode()
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:  # the disk is full or disconnected: remove the incomplete record
            with contextlib.suppress(OSError):
                self._file.truncate(self._good_bytes)
            self.close()
            raise UserError(f"{self.path}: cannot be written ({error.strerror}). Its records so far are kept") from None
        self._good_bytes += len(data)
        self.records += cast("tuple[SampleRecord, ...]", made)

    def replace(self, made: Iterable[SampleRecord]) -> None:
        """Replace all records of the file with these, in one step."""
        self.close()
        self.records = list(made)
        text = "".join(canonical(record) + "\n" for record in (self.header, *self.records))
        write_atomically(self.path, text)
        self._good_bytes = len(text.encode())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Journal:
    """The records of one cell. `answers`, by doc_id, include those of an earlier run. A finished cell has a `result`.

    A doc_id is a sufficient key, because data, protocol and decoding are in the identity.

    If several processes share a cell, each writes its answers to a file of its own (named `part`) in parts/. The
    process that finishes the cell joins these files, in the order in which a single process would have written them.
    """

    def __init__(self, path: Path, identity: dict[str, Any], part: str | None = None):
        self.path = path
        whole = Lines(path, identity)
        self.id = whole.id
        folder = path.parent / "parts"
        self._parts = [Lines(found, identity) for found in sorted(folder.glob(f"{path.stem}.*.jsonl"))]
        self._whole = self._own = whole
        if part is not None:
            own = folder / f"{path.stem}.{part}.jsonl"
            self._own = next((lines for lines in self._parts if lines.path == own), None) or Lines(own, identity)
        self.answers: dict[int, AnswerRecord] = {}
        for lines in (*self._parts, whole):
            self.answers |= lines.answers
        self.result = whole.result

    @property
    def scores(self) -> list[ScoreRecord]:
        """The scores of all samples, of a finished cell."""
        return self._whole.scores

    def append(self, *answers: Mapping[str, Any]) -> None:
        """Write answers. Adds their `kind`. See `Lines.append`."""
        made = [cast("AnswerRecord", {"kind": "answer", **answer}) for answer in answers]
        self._own.append(*made)
        self.answers |= {answer["doc_id"]: answer for answer in made}

    def finish(self, scores: Iterable[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
        """Write the scores of all samples and the cell's result, which finishes the cell. Adds their `kind`."""
        self.result = cast("ResultRecord", {"kind": "result", **result})
        closing: list[SampleRecord] = [cast("ScoreRecord", {"kind": "score", **score}) for score in scores]
        closing.append(self.result)
        if self._parts:
            answers = sorted(self.answers.values(), key=lambda record: (record["batch"], record["doc_id"]))
            self._whole.replace([*answers, *closing])
            for lines in self._parts:
                lines.path.unlink(missing_ok=True)
            self._parts = []
        else:
            self._whole.append(*closing[sum(record["kind"] == "score" for record in self._whole.records) :])

    def set_aside(self) -> None:
        """Move the existing files of the cell to samples/replaced/."""
        for lines in (self._whole, *self._parts):
            if lines.path.exists():
                place = self.path.parent / "replaced" / lines.path.name
                place.parent.mkdir(exist_ok=True)
                lines.path.replace(place)

    def close(self) -> None:
        self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock `folder` for this process. Raises UserError, with the process and host, if another process has the lock.

    The kernel releases the lock of a process that died. The file only names the owner.
    """
    import fcntl

    path = folder / ".lock"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise UserError(
                f"{folder}: in use by {handle.read().strip() or 'another process'}. Wait for it, or use another --out"
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        try:
            yield
        finally:
            handle.seek(0)
            handle.truncate()


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader never sees an incomplete file."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def place(out: Path, key: str, id: str) -> Path:
    """The path of a cell's journal in a results folder. key: "model/label/task". id: the cell's identity hash."""
    return out / "samples" / f"{slug(key)}.{id[:12]}.jsonl"


def slug(key: str) -> str:
    """A cell's key as a file name: "mini/fastv-25%/gqa" -> "mini.fastv-25pct.gqa"."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", key.replace("/", ".").replace("%", "pct"))
