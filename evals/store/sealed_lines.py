"""Lines of a journal with their checksums: how they are written, and what is wrong with those of a file.

    {"kind": "answer", ..., "sum": "<16 hex digits>", "link": "<16 hex digits>"}

`sum` covers the cell's id and every byte of the line before it: a changed line, or another cell's line, has a wrong
sum. `link` covers the line's sum and the link of the line before: a line that was added, removed or moved breaks the
chain there, and the lines after it are still known to be good. The first line is the cell's header, so all links
depend on it.

Both find accidents and careless edits. They are not a signature: anybody can compute them again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evals.store import records
from evals.store.records import CellHeader, SampleRecord

SCHEMA = 3
SEAL = re.compile(rb',"sum":"([0-9a-f]{16})","link":"([0-9a-f]{16})"\}')
SEAL_LENGTH = 52  # bytes
HEADER_START, LONGEST_HEADER = b'{"id":"', 1 << 13  # bytes; far more than a cell's identity needs


def canonical(value: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def identity_hash(identity: Mapping[str, Any]) -> str:
    """sha256 of everything that changes a cell's numbers. Cells with different hashes are different cells."""
    return hashlib.sha256(canonical(identity).encode()).hexdigest()


def header_record(identity: dict[str, Any]) -> CellHeader:
    """The first record of a cell's journal."""
    return {"schema": SCHEMA, "kind": "cell", "id": identity_hash(identity), "identity": identity}


def sealed(lines: Iterable[Mapping[str, Any]], id: str, link: str = "") -> tuple[bytes, str]:
    """Records as the lines of the cell `id`, and the link of the last one. `link`: that of the line before them."""
    text = bytearray()
    for record in lines:
        body = canonical(record)[:-1].encode()
        own = _sum(id, body)
        link = _link(link, own)
        text += body + f',"sum":"{own}","link":"{link}"}}\n'.encode()
    return bytes(text), link


def _sum(id: str, body: bytes) -> str:
    return hashlib.blake2b(body, digest_size=8, key=id[:64].encode()).hexdigest()


def _link(before: str, own: str) -> str:
    return hashlib.blake2b((before + own).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Line:
    """A line of a file. `record`: None if it is damaged. `linked`: whether it follows the line before it.

    problem: what is wrong with it, in words; None for a good line.
    """

    number: int
    record: SampleRecord | None
    linked: bool
    problem: str | None


@dataclass(frozen=True)
class Content:
    """What is in a journal's file.

    header: None if the first line is damaged (`problem`) or missing. size: bytes of the whole lines. link: of the last
    line. torn: why the bytes after the last line break are not what a crash leaves; None if there are none, or if a
    crash can have left them.
    """

    header: CellHeader | None
    problem: str | None
    lines: tuple[Line, ...]
    size: int
    link: str
    torn: str | None


def header_of(line: bytes) -> CellHeader:
    """The header in a journal's first line. Raises ValueError for any other line, and for a damaged one.

    A header of another schema is returned even if it has no checksum.
    """
    body, own, link = _parts(line)
    header = records.header(line if own is None else body + b"}")
    if own is None and header["schema"] == SCHEMA:
        raise ValueError("it has no checksum")
    if own is not None and (own != _sum(header["id"], body) or link != _link("", own)):
        raise ValueError("its checksum is wrong")
    return header


def content_of(data: bytes) -> Content:
    """What is in the bytes of a file, line by line. Stops after the header if it is damaged or of another schema."""
    *whole, tail = data.split(b"\n")
    if not whole:
        return Content(None, None, (), 0, "", _torn(tail, None))
    first, *rest = whole
    try:
        header = header_of(first)
    except ValueError as error:
        return Content(None, f"its first line is damaged ({error})", (), len(data), "", None)
    if header["schema"] != SCHEMA:
        return Content(header, None, (), len(data), "", None)
    lines, link = examined(rest, header["id"], _parts(first)[2])
    torn = _torn(tail, header["id"])
    if tail and lines and lines[-1].record and lines[-1].record["kind"] == "result":
        torn = "its result is not its last line"
    return Content(header, None, tuple(lines), len(data) - len(tail), link or "", torn)


def examined(rest: Iterable[bytes], id: str, link: str | None) -> tuple[list[Line], str | None]:
    """The lines after the header, and the link of the last one. `link`: that of the header, None if it is unknown."""
    lines = []
    for number, line in enumerate(rest, start=2):
        body, own, stored = _parts(line)
        if own is None or own != _sum(id, body):
            lines.append(Line(number, None, False, f"line {number} is damaged (its checksum is wrong)"))
            link = None  # the link in a damaged line is not known, so the next line cannot be compared with it
            continue
        linked, link = link is None or stored == _link(link, own), stored
        try:
            record = records.sample(body + b"}")
        except ValueError as error:
            lines.append(Line(number, None, linked, f"line {number} is damaged ({error})"))
            continue
        problem = (
            None if linked else f"line {number} does not follow line {number - 1}: lines were added, lost or moved"
        )
        lines.append(Line(number, record, linked, problem))
    return lines, link


def _parts(line: bytes) -> tuple[bytes, str | None, str | None]:
    """A line without its checksums, its sum, and its link. The line itself and None if it has none."""
    found = SEAL.fullmatch(line[-SEAL_LENGTH:])
    return (line[:-SEAL_LENGTH], found[1].decode(), found[2].decode()) if found else (line, None, None)


def _torn(tail: bytes, id: str | None) -> str | None:
    """Why the bytes after the last line break are not the start of a line that was being written; None if they are.

    A whole line with anything after it was finished, and its line break is damaged. JSON has no control characters.
    """
    if not tail:
        return None
    body, own, _ = _parts(tail[:-1])
    if own is not None and (id is None or own == _sum(id, body)):
        return "the end of its last line is damaged"
    if not tail.startswith(b'{"'[: len(tail)]) or any(byte < 0x20 for byte in tail):
        return "after its last line are bytes that no crash leaves there"
    return None


# ---- a damaged first line ------------------------------------------------------------------------------------------


def recovered(data: bytes) -> Content | None:
    """What is in a file whose first line is damaged in a single bit. None if something else is wrong with it.

    Without its first line nobody knows which cell a journal belongs to, so it is worth some ten thousand tries.
    """
    first = data.find(b"\n")
    for place in range(min(len(data), (first if first >= 0 else len(data)) + 1, LONGEST_HEADER)):
        for bit in range(8):
            line = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 : LONGEST_HEADER]
            whole = line[: line.find(b"\n")]  # without a line break: all but one byte, which is not a whole line
            if not whole.startswith(HEADER_START) or _parts(whole)[1] is None:
                continue
            try:
                header = header_of(whole)
            except ValueError:
                continue
            if header["schema"] == SCHEMA and header["id"] == identity_hash(header["identity"]):
                content = content_of(line + data[LONGEST_HEADER:])
                return replace(content, problem=f"its first line is damaged (bit {bit} of byte {place})")
    return None
