"""A finished journal, and what one wrong bit in it does."""

from __future__ import annotations

from pathlib import Path
from random import Random

from evals.store import doctor
from evals.store.journal import Journal
from hidrop.errors import UserError
from tests.evals.world import ANSWER, SCORE, result_of

IDENTITY = {"task": "gqa", "weights": "abc", "protocol": ["llava", 1], "method": "fastv", "fields": {"keep": 64}}
SESSION = {"hardware": {"cpu": "x"}, "versions": {"torch": "2"}, "commit": "abc", "date": "2026-11-26T10:00:00+00:00"}
COUNT = 20


def written(path: Path, *, count: int = COUNT, done: bool = True, identity: dict[str, object] = IDENTITY) -> bytes:
    """Write the journal of a cell with some samples, half of them right, and return its bytes."""
    path.unlink(missing_ok=True)
    with Journal(path, identity, made=lambda: SESSION) as log:
        for first in range(0, count, 4):
            log.append(*({**ANSWER, "doc_id": i, "batch": first, "answer": str(i)} for i in range(first, first + 4)))
        if done:
            scores = [{**SCORE, "doc_id": i, "score": float(i % 2)} for i in range(count)]
            counts = {"seconds": count / 2, "n_empty": 0, "n_distinct": count, "value": 50.0}
            log.finish(scores, result_of(count, **counts))
            log.check()
    return path.read_bytes()


def flipped(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def silently_accepted(folder: Path, flips: int, seed: int) -> list[tuple[int, int]]:
    """The random single-bit flips after which a run opens the finished journal, or the doctor finds nothing."""
    path, generator, missed = folder / "samples" / "a.jsonl", Random(seed), []
    path.parent.mkdir(exist_ok=True)
    good = written(path)
    for _ in range(flips):
        place, bit = generator.randrange(len(good)), generator.randrange(8)
        path.write_bytes(flipped(good, place, bit))
        try:
            Journal(path, IDENTITY).check()
        except UserError as error:
            assert str(path) in str(error)
            if doctor.examine(folder):
                continue
        missed.append((place, bit))
    return missed
