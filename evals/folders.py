"""Results folders as a user keeps them: what is in one, which there are, and its samples as one table."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.document import cell_key
from evals.journal import Lines, place
from hidrop.errors import UserError

# What a sample's answer and its score say, in the order of the exported columns.
ANSWER = ("prompt_hash", "prompt_tokens", "visual_tokens", "new_tokens", "milliseconds", "error", "batch", "answer")
SCORE = ("reading", "target", "score", "image_key", "category", "group")


def read_document(place: str | Path) -> dict[str, Any]:
    """leaderboard.json of a folder, or of a folder in a commit ("REV:results/mini"). Raises UserError."""
    text = str(place)
    if not Path(text).exists() and ":" in text:
        return _parsed(_of_commit(*text.split(":", 1)), text)
    path = Path(text) / "leaderboard.json"
    try:
        return _parsed(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. It is written by `run.py --matrix`") from None


def _parsed(text: str, place: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        raise UserError(f"{place}: not JSON. Run the matrix again: finished cells are not run twice") from None
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        raise UserError(f"{place}: not a results document: it has no list of cells")
    return document


def _of_commit(revision: str, folder: str) -> str:
    name = f"{revision}:{folder.rstrip('/')}/leaderboard.json"
    done = subprocess.run(["git", "show", name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{name}: git cannot show it: {done.stderr.strip()}")
    return done.stdout


def samples_of(folder: Path, cell: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Answer and score of each sample of a finished cell, in the order of doc_id; None where the journal is not there.

    Raises UserError for a damaged journal.
    """
    path = place(folder, cell_key(cell), str(cell.get("id")))
    if not path.exists():
        return None
    lines = Lines.of(path)
    answers = {r["doc_id"]: r for r in lines.records if r["kind"] == "answer"}
    scores = {r["doc_id"]: r for r in lines.records if r["kind"] == "score"}
    return [{**answers[doc_id], **scores[doc_id]} for doc_id in sorted(scores) if doc_id in answers]


@dataclass(frozen=True)
class State:
    """A results folder in a line. `failed` counts cells and timings; `begun`: cells that are not finished."""

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
    try:
        document = read_document(folder)
    except UserError:
        document = {}
    hardware = document.get("hardware", {})
    return State(
        folder,
        str(document.get("matrix") or "-"),
        str(document.get("date") or "-")[:16].replace("T", " "),
        len(done) or len(document.get("cells", ())),
        len(unfinished),
        len([*folder.glob("failures/*.txt")]),
        str(hardware.get("gpu") or hardware.get("cpu") or "-"),
        _holder(folder),
    )


def _finished(path: Path) -> bool:
    """Whether a journal's last line is its result; only the end of the file is read."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16)))
        last = file.read().rstrip(b"\n").rsplit(b"\n", 1)[-1]
    return b'"kind":"result"' in last


def _holder(folder: Path) -> str:
    try:
        return (folder / ".lock").read_text(encoding="utf-8").strip() or "-"
    except OSError:
        return "-"


def export(folder: Path, target: Path, *, card: bool) -> list[Path]:
    """The samples of all finished cells as one parquet file and the cells as another; with `card` as a data set.

    A field whose type differs between tasks (the target: a word, or ten answers) is written as JSON. Raises UserError
    when there are no journals (only tables are kept of the committed results).
    """
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    document = read_document(folder)
    rows = []
    for cell in document["cells"]:
        for sample in samples_of(folder, cell) or ():
            names = {name: cell[name] for name in ("model", "method", "label", "task")}
            values = {name: sample.get(name) for name in ("doc_id", *ANSWER, *SCORE)}
            for name in ("target", "group"):
                values[name] = json.dumps(values[name], ensure_ascii=False)
            rows.append({**names, **values})
    if not rows:
        raise UserError(f"{folder}: no finished journals in samples/: run the matrix, finished cells are not run twice")
    target.mkdir(parents=True, exist_ok=True)
    paths = [target / "samples.parquet", target / "cells.parquet"]
    parquet.write_table(arrow.Table.from_pylist(rows), paths[0])
    flat = [{k: v if isinstance(v, (str, int, float, type(None))) else json.dumps(v) for k, v in cell.items()}
            for cell in document["cells"]]  # fmt: skip
    parquet.write_table(arrow.Table.from_pylist(flat), paths[1])
    if card:
        paths.append(target / "README.md")
        paths[2].write_text(_card(document), encoding="utf-8")
    return paths


def _card(document: dict[str, Any]) -> str:
    from evals.report.text import markdown

    return f"""---
pretty_name: "hidrop: {document["matrix"]}"
configs:
- config_name: samples
  data_files: samples.parquet
- config_name: cells
  data_files: cells.parquet
---

Answers and scores of visual-token reduction methods, sample by sample, as hidrop measured them.

{markdown(document)}"""
