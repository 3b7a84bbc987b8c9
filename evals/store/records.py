"""What the lines of a journal may be: the fields that others rely on, each with its type. See docs/guarantees.md."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from types import NoneType
from typing import Any, NoReturn

from evals.store.kept_tokens import unpack

Record = dict[str, Any]

NUMBER = (int, float)
NAME = (str, int, NoneType)
FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "cell": {"schema": int, "id": str, "identity": dict},
    "answer": {
        "doc_id": int,
        "answer": str,
        "batch": int,
        "prompt_tokens": int,
        "visual_tokens": int,
        "milliseconds": NUMBER,
        "error": (str, NoneType),
    },
    "score": {
        "doc_id": int,
        "reading": (str, NoneType),
        "target": object,
        "score": NUMBER,
        "image_key": NAME,
        "category": NAME,
        "group": NAME,
    },
    "result": {
        "metric": str,
        "value": NUMBER,
        "extra": dict,
        "n": int,
        "n_failed": int,
        "prompts": list,
        "dtype": str,
        "seconds": NUMBER,
    },
}
PROMPT: dict[str, type | tuple[type, ...]] = {
    "text": int,
    "visual": int,
    "entering": (list, tuple, NoneType),
    "count": int,
}


def parsed(line: bytes) -> Record:
    """The record in a line. Raises ValueError for what is none: no JSON, of no known kind, a field lacking or odd."""
    try:
        record = json.loads(line, parse_constant=_no_number)
        if b"\\ud" in line.lower():  # half a character cannot be written again
            json.dumps(record, ensure_ascii=False).encode()
        return checked(record)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def checked(record: Any) -> Record:
    """The record itself, if it is one. Raises ValueError like `parsed`."""
    kind = record.get("kind") if isinstance(record, dict) else None
    if not isinstance(kind, str) or kind not in FIELDS:
        raise ValueError("no record")
    _check(record, FIELDS[kind])
    if kind == "answer":
        _check_counts(record.get("entering"))
        _check_kept(record.get("kept"), record["visual_tokens"])
    for prompt in record["prompts"] if kind == "result" else ():
        _check(prompt, PROMPT)
        _check_counts(prompt["entering"])
    return record


def unfinished(records: Sequence[Record]) -> str | None:
    """What contradicts the result at the end of a cell's records, in words. None: nothing, or there is no result."""
    results = [record for record in records if record["kind"] == "result"]
    if not results:
        return None
    answered = {record["doc_id"] for record in records if record["kind"] == "answer"}
    scored = [record["doc_id"] for record in records if record["kind"] == "score"]
    if len(results) > 1 or records[-1]["kind"] != "result":
        return "its result is not its last line"
    if len(scored) != results[0]["n"] or len(set(scored)) != len(scored):
        return f"its result is of {results[0]['n']} samples and {len(set(scored))} are scored"
    return None if answered >= set(scored) else "samples are scored that have no answer"


def _check(record: Any, fields: dict[str, type | tuple[type, ...]]) -> None:
    if not isinstance(record, dict):
        raise ValueError("no record")
    for name, kind in fields.items():
        value = record[name] if name in record else _lacking(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not object):
            raise ValueError(f"{name} is {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} is not finite")


def _check_counts(entering: Any) -> None:
    if entering is not None and not (
        isinstance(entering, (list, tuple)) and all(type(n) is int and n >= 0 for n in entering)
    ):
        raise ValueError(f"entering is {entering!r}")


def _check_kept(kept: Any, tokens: int) -> None:
    """See evals.store.kept_tokens: pairs of a layer and, in base64, a bit for each visual token."""
    for pair in () if kept is None else kept if isinstance(kept, (list, tuple)) else (kept,):
        if not isinstance(pair, (list, tuple)) or [type(part) for part in pair] != [int, str]:
            raise ValueError(f"kept holds {pair!r}")
        unpack(pair[1], tokens)


def _lacking(name: str) -> NoReturn:
    raise ValueError(f"{name} is missing")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")
