"""The journals of a run: one append-only JSON-lines file per cell. A process that writes to one holds the
folder's lock.

The first line of a journal is its header {"schema": 3, "kind": "cell", "id", "identity"}. Next come, in the order of
their creation, {"kind": "provenance", ...} for each session that answers samples, {"kind": "answer", "doc_id", ...} for
each sample, then {"kind": "score", "doc_id", ...} for each sample of a scored task, and {"kind": "result", ...} as the
last line of a finished cell. `evals.store.records` has the types, `evals.store.sealed_lines` the checksums of a line.
The next writer cuts off an incomplete last line (the machine went down while it was written). Any other damage is an
error.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from evals.store import recomputed, records, sealed_lines
from evals.store.records import (
    AnswerRecord,
    CellHeader,
    ProvenanceRecord,
    ResultRecord,
    SampleRecord,
    ScoreRecord,
)
from evals.store.run_command import repair_command
from evals.store.sealed_lines import (
    SCHEMA,
    Content,
    canonical,
    content_of,
    header_record,
    identity_hash,
    sealed,
)
from hidrop.atomic_file import sync_folder, write_atomically
from hidrop.errors import CannotWrite, UserError
from hidrop.regular_files import Unreadable, opened, opened_to_append, own_folder, read_bytes


def header_of(path: Path) -> CellHeader:
    """The first line of a journal. Raises UserError if it is damaged, or the file is not a journal."""
    try:
        with opened(path) as file:
            first = file.readline()
        return sealed_lines.header_of(first.removesuffix(b"\n"))
    except Unreadable as reason:
        raise UserError(f"{path}: cannot be read: {reason}. Move it away") from None
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
        self.header: CellHeader = header_record(identity)
        self.id = self.header["id"]
        self.records: list[SampleRecord] = []
        self._file: Any = None
        self._good_bytes, self._link = 0, ""
        if os.path.lexists(path):
            try:
                self._take(content_of(read_bytes(path)))
            except Unreadable as reason:
                raise UserError(f"{path}: cannot be read: {reason}. Move it away") from None

    @property
    def answers(self) -> dict[int, AnswerRecord]:
        """The answers by doc_id."""
        return {record["doc_id"]: record for record in self.records if record["kind"] == "answer"}

    @property
    def scores(self) -> list[ScoreRecord]:
        return [record for record in self.records if record["kind"] == "score"]

    @property
    def provenance(self) -> list[ProvenanceRecord]:
        """One record for each session that answered samples."""
        return [record for record in self.records if record["kind"] == "provenance"]

    @property
    def result(self) -> ResultRecord | None:
        """The result of a finished cell."""
        return next((record for record in self.records if record["kind"] == "result"), None)

    def _take(self, content: Content) -> None:
        """Take over what a file holds. Raises UserError for damage, and for a file of another cell or schema."""
        if content.problem:
            raise self._damaged(content.problem)
        if content.header is not None:
            self._check_header(content.header)
        for line in content.lines:
            if line.problem or line.record is None:
                raise self._damaged(str(line.problem))
            self.records.append(line.record)
        if problem := content.torn or records.contradiction(self.records):
            raise self._damaged(problem)
        self._good_bytes, self._link = content.size, content.link

    def _damaged(self, problem: str) -> UserError:
        way = f"`{repair_command(self.path)}` repairs it; without the file the cell runs again"
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

        Raises CannotWrite when the disk is full or gone; the records so far are kept. Raises ValueError, before
        anything is written, for a record that the reader would refuse.
        """
        checked = [records.checked(record) for record in made]
        data, link = sealed(checked if self._link else (self.header, *checked), self.id, self._link)
        try:
            self._open()
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
            if not self._link:
                sync_folder(self.path.parent)
        except OSError as error:  # the disk is full or disconnected: remove the incomplete record
            if self._file is not None:
                with contextlib.suppress(OSError):
                    self._file.truncate(self._good_bytes)
                self.close()
            raise CannotWrite(
                f"{self.path}: cannot be written ({error.strerror}). Its records so far are kept"
            ) from None
        self._good_bytes, self._link = self._good_bytes + len(data), link
        self.records += cast("tuple[SampleRecord, ...]", made)

    def _open(self) -> None:
        """Open the file for appending, and cut off an incomplete last line."""
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer, because a buffer would write failed data again when the file is closed.
            self._file = opened_to_append(self.path)
            self._file.truncate(self._good_bytes)

    def replace(self, made: Iterable[SampleRecord]) -> None:
        """Replace all records of the file with these, in one step."""
        self.close()
        made = list(made)
        data, link = sealed((self.header, *made), self.id)
        write_atomically(self.path, data)
        self.records, self._good_bytes, self._link = made, len(data), link

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Journal:
    """The records of one cell. `answers`, by doc_id, include those of an earlier run. A finished cell has a `result`.

    A doc_id is a sufficient key, because data, protocol and decoding are in the identity.

    If several processes share a cell, each writes its answers to a file of its own (named `part`) in parts/. The
    process that finishes the cell joins these files, in the order in which a single process would have written them.

    Raises UserError if the journal's folder, or one in it, is a link. See `own_folder`.
    """

    def __init__(
        self,
        path: Path,
        identity: dict[str, Any],
        part: str | None = None,
        made: Callable[[], Mapping[str, Any]] | None = None,
    ):
        """`made`: the provenance of this session (`hidrop.provenance`), which is written before its first answer."""
        self.path = path
        folder, self._replaced = path.parent / "parts", path.parent / "replaced"
        for own in (path.parent, folder, self._replaced):
            own_folder(own)
        whole = Lines(path, identity)
        self.id = whole.id
        self._parts = [Lines(found, identity) for found in sorted(folder.glob(f"{path.stem}.*.jsonl"))]
        self._whole = self._own = whole
        if part is not None:
            mine = folder / f"{path.stem}.{part}.jsonl"
            self._own = next((lines for lines in self._parts if lines.path == mine), None) or Lines(mine, identity)
        self.answers: dict[int, AnswerRecord] = {}
        for lines in (*self._parts, whole):
            self.answers |= lines.answers
        self.result = whole.result
        self._made = made

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that changes the cell's numbers, as its header has it."""
        return self._whole.header["identity"]

    @property
    def scores(self) -> list[ScoreRecord]:
        """The scores of all samples, of a finished cell."""
        return self._whole.scores

    @property
    def provenance(self) -> list[ProvenanceRecord]:
        """Where and with what the cell was answered: one record for each session, the earliest first."""
        found: list[ProvenanceRecord] = []
        for lines in (self._whole, *self._parts):
            found += [record for record in lines.provenance if record not in found]
        return sorted(found, key=lambda record: record["date"])

    def check(self) -> None:
        """Raises UserError, with the file's name, if the cell's result is not what its answers and scores give."""
        recomputed.check(self.path, self._whole.header["identity"], self._whole.records)

    def append(self, *answers: Mapping[str, Any]) -> None:
        """Write answers. Adds their `kind`. See `Lines.append`."""
        made = [cast("AnswerRecord", {"kind": "answer", **answer}) for answer in answers]
        session = [{"kind": "provenance", **self._made()}] if self._made else []
        self._own.append(*session, *made)
        self._made = None
        self.answers |= {answer["doc_id"]: answer for answer in made}

    def finish(self, scores: Iterable[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
        """Write the scores of all samples and the cell's result, which finishes the cell. Adds their `kind`.

        If several files hold the answers, or a repair changed their order, or other scores are there, the file is
        written again as an undisturbed process would have written it.
        """
        closing: list[SampleRecord] = [cast("ScoreRecord", {"kind": "score", **score}) for score in scores]
        closing.append(cast("ResultRecord", {"kind": "result", **result}))
        answers = sorted(self.answers.values(), key=lambda record: (record["batch"], record["doc_id"]))
        begun = self._whole.scores
        if (
            self._parts
            or answers != list(self._whole.answers.values())
            or canonical(begun) != canonical(closing[: len(begun)])
        ):
            self._whole.replace([*self.provenance, *answers, *closing])
            for lines in self._parts:
                lines.path.unlink(missing_ok=True)
            self._parts = []
        else:
            self._whole.append(*closing[len(begun) :])
        self.result = self._whole.result

    def set_aside(self) -> None:
        """Move the existing files of the cell to samples/replaced/."""
        for lines in (self._whole, *self._parts):
            if lines.path.exists():
                self._replaced.mkdir(exist_ok=True)
                lines.path.replace(unused(self._replaced / lines.path.name))

    def close(self) -> None:
        self._own.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def unused(path: Path) -> Path:
    """The path itself, or with the first number that makes it the name of nothing that is there."""
    number, found = 1, path
    while os.path.lexists(found):
        number += 1
        found = path.with_name(f"{path.name}-{number}")
    return found
