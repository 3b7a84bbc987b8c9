"""`run.py doctor`: what is damaged in a results folder, and what a repair would drop.

A torn last line is not damage: the next writer cuts it off. A repair keeps every record of a journal whose own checksum
is right, also after a line that was damaged, added, lost or moved, and gives the lines new links. If a scored sample
lost its answer or its score, the scores and the result are dropped too, and the next run makes them again. It also asks
the samples again that lost their answer. The damaged file is kept next to the repaired one, as NAME.damaged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.store import recomputed, records
from evals.store.folders import check_inside, contradiction_with
from evals.store.journal import unused
from evals.store.json_files import FileKind
from evals.store.records import CellHeader, SampleRecord
from evals.store.result_document import RESULTS
from evals.store.sealed_lines import SCHEMA, Content, Line, canonical, content_of, identity_hash, recovered, sealed
from evals.store.timings_document import TIMINGS
from hidrop.atomic_file import write_atomically
from hidrop.errors import UserError
from hidrop.regular_files import Unreadable, read_bytes


@dataclass(frozen=True)
class Finding:
    """Something wrong with a file. `kept`: the content of the repaired file; None if the whole file is set aside."""

    path: Path
    problem: str
    drops: str
    kept: bytes | None

    def repair(self) -> None:
        """Set the damaged file aside and, if something can be kept, write a good one in its place."""
        aside = unused(self.path.with_name(self.path.name + ".damaged"))
        if self.kept is None:  # whatever it is: it may be a folder or a pipe
            self.path.rename(aside)
        else:
            write_atomically(aside, self.path.read_bytes())
            write_atomically(self.path, self.kept)

    def text(self) -> str:
        return f"{self.path}: {self.problem}; a repair drops {self.drops}"


def repair(folder: Path, found: Iterable[Finding]) -> None:
    """Repair what `examine` found in a results folder. Raises UserError if a folder in it is a link."""
    check_inside(folder)
    for finding in found:
        finding.repair()


def examine(folder: Path) -> list[Finding]:
    """Everything that is damaged in a results folder. Raises UserError if `folder` is not a results folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    journals = sorted([*folder.glob("samples/*.jsonl"), *folder.glob("samples/parts/*.jsonl")])
    documents: list[tuple[FileKind[Any], Path]] = [(RESULTS, path) for path in folder.glob("leaderboard.json")]
    documents += [(TIMINGS, path) for path in sorted(folder.glob("profiles/*.json"))]
    if not journals and not documents:
        raise UserError(f"{folder}: not a results folder (no samples/, no leaderboard.json)")
    found = [_journal(path) for path in journals]
    bad = {finding.path for finding in found if finding}
    found += [_document(kind, path, bad) for kind, path in documents]
    return [finding for finding in found if finding]


def _document(kind: FileKind[Any], path: Path, bad: set[Path]) -> Finding | None:
    """`bad`: damaged journals, with which a document is not compared."""
    try:
        document = kind.read(path)
        problem = contradiction_with(path.parent, document, bad) if kind is RESULTS else None
    except UserError as error:
        problem = str(error).removeprefix(f"{path}: ").removesuffix(f". {kind.remedy(str(path))}")
    return Finding(path, problem, "nothing that the next run does not make again", None) if problem else None


def _journal(path: Path) -> Finding | None:
    try:
        data = read_bytes(path)
    except Unreadable as reason:
        return Finding(path, f"cannot be read: {reason}", "all of it", None)
    content = content_of(data)
    if content.problem:
        content = recovered(data) or content
    header = content.header
    if header is None:
        problem = content.problem or content.torn
        return Finding(path, f"{problem}, so its cell is unknown", "all of it", None) if problem else None
    if header["schema"] != SCHEMA:
        return Finding(path, f"written by another version (schema {header['schema']})", "all of it", None)
    if header["id"] != identity_hash(header["identity"]):
        return Finding(path, "its first line contradicts itself", "all of it", None)
    found = [line.record for line in content.lines if line.record is not None]
    problems = [content.problem, *(line.problem for line in content.lines), content.torn]
    if not any(problems):  # else it follows from them
        problems = [records.contradiction(found) or recomputed.contradiction(header["identity"], found)]
    if not any(problems):
        return None
    kept = _kept(header, content.lines)
    text, _ = sealed((header, *kept), header["id"])
    return Finding(path, _told([problem for problem in problems if problem]), _drops(content, found, kept), text)


def _told(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
    return "; ".join(problems[:10]) + more


def _drops(content: Content, found: Sequence[SampleRecord], kept: Sequence[SampleRecord]) -> str:
    """What a repair drops, in words."""
    before, after = (Counter(str(record["kind"]) for record in side) for side in (found, kept))
    damaged = len(content.lines) - len(found)
    lost = before - after
    parts = [f"{damaged} damaged records"] if damaged else []
    parts += [
        f"{lost[kind]} {name}" for kind, name in (("answer", "answers"), ("provenance", "sessions")) if lost[kind]
    ]
    if before["score"] + before["result"] and not after["result"]:
        parts.append(f"{before['score']} scores and the result, which are made again")
    elif lost["score"] + lost["result"]:
        parts.append(f"{lost['score'] + lost['result']} copies of scores and results")
    return ", ".join(parts) or "nothing"


def _kept(header: CellHeader, lines: Sequence[Line]) -> list[SampleRecord]:
    """The records of a repaired journal, in the order in which an undisturbed run writes them."""
    good = {kind: [x for x in lines if x.record and x.record["kind"] == kind] for kind in records.KINDS}
    answers = sorted(_once(good["answer"]), key=lambda record: (record["batch"], record["doc_id"]))
    sessions, scores, results = (_once(good[kind]) for kind in ("provenance", "score", "result"))
    closing = [*sorted(scores, key=lambda record: record["doc_id"]), *results]
    whole = [*sessions, *answers, *closing]
    if results and not (records.contradiction(whole) or recomputed.contradiction(header["identity"], whole)):
        return whole
    return [*sessions, *answers]


def _once(lines: Iterable[Line]) -> list[Any]:
    """Each record once. Of records that contradict each other the one at its place, and none if that is not clear."""
    found: dict[Any, list[Line]] = {}
    for line in lines:
        record: Any = line.record
        key = canonical(record) if record["kind"] == "provenance" else record.get("doc_id")
        found.setdefault(key, []).append(line)
    kept = []
    for own in found.values():
        placed = [line for line in own if line.linked]
        texts = {canonical(line.record): line.record for line in (placed if len(placed) == 1 else own)}
        kept += list(texts.values()) if len(texts) == 1 else []
    return kept
