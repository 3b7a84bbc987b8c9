"""What a run leaves behind while it runs: one append-only JSON-lines file per cell, and who is writing there.

The first line of a journal is its header {"schema": 2, "kind": "cell", "id", "identity"}; then come, in the order in
which they were made, {"kind": "answer", "doc_id", ...} for each sample, {"kind": "score", "doc_id", ...} once the task
has been scored, and {"kind": "result", ...} as the last line of a finished cell. A torn last line (the machine went
down while it was written) is cut off when the file is opened again; damage anywhere else is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evals.store import records
from hidrop.errors import UserError
from hidrop.program import program

SCHEMA = 2


def canonical(value: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def identity_hash(identity: dict[str, Any]) -> str:
    """sha256 of everything that changes a cell's numbers; a cell with another hash is another cell."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


class Lines:
    """One file of a cell's records. Opening creates nothing; it is written, header first, with the first record."""

    @classmethod
    def of(cls, path: Path) -> Lines:
        """A file that is there, whatever cell it is of. Raises UserError when it is damaged, or no journal."""
        with path.open("rb") as file:
            first = file.readline()
        try:
            identity = records.parsed(first)["identity"]
        except (ValueError, KeyError):
            raise UserError(f"{path}: not a run's journal, or its first line is damaged") from None
        return cls(path, identity)

    def __init__(self, path: Path, identity: dict[str, Any]):
        self.path = path
        self.id = identity_hash(identity)
        self.header: records.Record = {"schema": SCHEMA, "kind": "cell", "id": self.id, "identity": identity}
        self.records: list[dict[str, Any]] = []
        self._file: Any = None
        self._good_bytes = 0
        if path.exists():
            self._read()

    def _read(self) -> None:
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                record = records.parsed(line)
                if (record["kind"] == "cell") != (number == 1):
                    raise ValueError
            except ValueError:
                raise self._damaged(f"line {number} is damaged") from None
            if number == 1:
                self._check_header(record)
            else:
                self.records.append(record)
            self._good_bytes += len(line) + 1
        if problem := records.unfinished(self.records):
            raise self._damaged(problem)

    def _damaged(self, problem: str) -> UserError:
        way = f"`{program()} doctor` repairs it; without the file the cell runs again"
        return UserError(f"{self.path}: {problem}. {way}")

    def _check_header(self, record: dict[str, Any]) -> None:
        if record["schema"] != SCHEMA:
            raise UserError(f"{self.path}: written by another version (schema {record['schema']}, not {SCHEMA})")
        if record["id"] != identity_hash(record["identity"]):
            raise self._damaged("its first line does not fit together")
        if record["id"] != self.id:
            raise UserError(f"{self.path}: holds another cell than its name says. Move it away")

    def append(self, *made: dict[str, Any]) -> None:
        """Write the records, all in one go. They outlive this process from now on, and a crash of the machine."""
        text = "".join(canonical(records.checked(record)) + "\n" for record in made)
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: what could not be written must not be written later, when the file is closed.
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
        except OSError as error:  # the disk is full, or gone: leave no half of a record behind
            with contextlib.suppress(OSError):
                self._file.truncate(self._good_bytes)
            self.close()
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}). What it holds so far is kept"
            ) from None
        self._good_bytes += len(data)
        self.records += made

    def replace(self, made: Iterable[dict[str, Any]]) -> None:
        """Write these records in the place of all that is there, in one step."""
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
    """The records of one cell. `answers` by doc_id are those of an earlier run, `result` is set if that one ended.

    A doc_id is enough of a key: data, protocol and decoding are in the identity.

    Where several processes share a cell, each writes its answers into a file of its own (`part` is its name), below
    parts/. Whoever finishes the cell puts them together, in the order in which one process would have written them.
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
        self.answers = {
            record["doc_id"]: record
            for lines in (*self._parts, whole)
            for record in lines.records
            if record["kind"] == "answer"
        }
        self.result = next((record for record in whole.records if record["kind"] == "result"), None)

    @property
    def scores(self) -> list[dict[str, Any]]:
        """The scores of all samples, of a cell that is done."""
        return [record for record in self._whole.records if record["kind"] == "score"]

    def append(self, *records: dict[str, Any]) -> None:
        """Write the records, all in one go. They outlive this process from now on, and a crash of the machine."""
        self.answers |= {record["doc_id"]: record for record in records if record["kind"] == "answer"}
        self._own.append(*records)

    def finish(self, scores: Iterable[dict[str, Any]], result: dict[str, Any]) -> None:
        """The scores of all samples and the cell's result: from now on the cell is done."""
        self.result = {"kind": "result", **result}
        closing = [*({"kind": "score", **score} for score in scores), self.result]
        if self._parts:
            answers = sorted(self.answers.values(), key=lambda record: (record["batch"], record["doc_id"]))
            self._whole.replace([*answers, *closing])
            for lines in self._parts:
                lines.path.unlink(missing_ok=True)
            self._parts = []
        else:
            self._whole.append(*closing[sum(record["kind"] == "score" for record in self._whole.records) :])

    def set_aside(self) -> None:
        """Begin anew; what is there goes into samples/replaced/."""
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
    """Hold `folder` for this process. Raises UserError, naming the other one, while another process holds it.

    The lock is the kernel's, so one left by a process that died is free again; the file only says whose it was.
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
    """Replace a file in one step, so that a reader never sees half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def place(out: Path, key: str, id: str) -> Path:
    """Where the journal of a cell ("model/label/task") with this identity hash is, in a results folder."""
    return out / "samples" / f"{slug(key)}.{id[:12]}.jsonl"


def slug(key: str) -> str:
    """A cell's key as a file name: "mini/fastv-25%/gqa" -> "mini.fastv-25pct.gqa"."""
    return re.sub(r"[^A-Za-z0-9._+-]", "-", key.replace("/", ".").replace("%", "pct"))
