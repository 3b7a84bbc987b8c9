"""Scores that a judge gives later to cells whose answers were only written (`unscored: to judge`).

A run writes `submissions/<cell>.<id>/answers.jsonl`, one line for each document: doc_id, question, answer, target. A
judge is a file of judgements, a function of the user's, or lmms-eval's own functions, which ask the server that their
environment variables name. The journal then has the scores, and a result that names the judge and the day.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from evals.store.cell_files import existing, submission_file
from evals.store.document import compare_again
from evals.store.folders import DOCUMENT, read_document
from evals.store.journal import Lines
from evals.store.records import ResultRecord, SampleRecord, ScoreRecord
from evals.store.result_document import CellEntry, ResultDocument, cell_key
from evals.tasks.base import TO_JUDGE, TaskScores
from evals.tasks.data import TaskSpec
from hidrop import provenance
from hidrop.errors import UserError, in_a_line, shown
from hidrop.regular_files import Unreadable, read_text

ANSWERS = "answers.jsonl"

# A cell to its scores.
Judge = Callable[[CellEntry, Lines], TaskScores]


@dataclass(frozen=True)
class Judged:
    """A cell that has a value now."""

    cell: str
    metric: str
    value: float


def judge_cells(
    folder: Path, judge: Judge, *, named: str, only: str = ""
) -> tuple[ResultDocument, list[Judged], list[str]]:
    """Score the cells of a results folder that wait for a judge.

    Returns the document with the new values, and one line for each cell that could not be scored: the others keep
    theirs, as a judge may be slow or cost money. named: the judge, for the journals and the caption. only: part of the
    keys ("model/label/task") of the cells. Raises UserError if no cell waits.
    """
    document = read_document(folder)
    waiting = [cell for cell in document["cells"] if cell.get("unscored") == TO_JUDGE and only in cell_key(cell)]
    if not waiting:
        among = f" among those with '{only}'" if only else ""
        raise UserError(f"{folder / DOCUMENT}: no cell waits for a judge{among}")
    found, problems = list[Judged](), list[str]()
    for cell in waiting:
        try:
            lines = _lines(folder, cell)
            scores = judge(cell, lines)
            value = _finish(lines, scores, named)
        except UserError as error:
            problems.append(f"{cell_key(cell)}: {error}")
            continue
        cell["value"], cell["metric"], cell["extra"] = value, scores.metric, dict(scores.extra)
        cell["judge"] = named
        del cell["unscored"]
        found.append(Judged(cell_key(cell), scores.metric, value))
    compare_again(document, folder, {cell["task"] for cell in waiting})
    return document, found, problems


def _lines(folder: Path, cell: CellEntry) -> Lines:
    path = next((path for path in existing(folder, cell["id"] or "-") if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{folder}: the journal of {cell_key(cell)} is not there: without its answers, nothing can be judged"
        )
    return Lines.of(path)


def _finish(lines: Lines, scores: TaskScores, named: str) -> float:
    """Write the scores and the new result into a cell's journal, in one step. Returns the value."""
    value, before, result = scores.value, {score["doc_id"]: score for score in lines.scores}, lines.result
    if value is None or result is None:
        raise UserError(f"{lines.path}: the judge gives no value")
    made: list[SampleRecord] = [record for record in lines.records if record["kind"] not in ("score", "result")]
    for doc_id, record in zip(sorted(before), scores.records, strict=True):
        made.append(cast("ScoreRecord", {**before[doc_id], **record}))
    kept = {name: one for name, one in result.items() if name != "unscored"}
    new = {**kept, "metric": scores.metric, "value": value, "extra": dict(scores.extra)}
    made.append(cast("ResultRecord", {**new, "judge": {"name": named, "date": provenance.now()}}))
    lines.replace(made)
    return value


# ---- judges --------------------------------------------------------------------------------------------------------


def by_file(path: Path) -> Judge:
    """Judgements in JSON lines: {"doc_id": 3, "score": 0.5}, from 0 to 1; with "cell", for that cell only."""
    rows = list(_objects(path))

    def judge(cell: CellEntry, lines: Lines) -> TaskScores:
        own = [row for row in rows if row.get("cell") in (None, cell_key(cell))]
        return _of_scores(cell, lines, {row.get("doc_id"): row.get("score") for row in own}, str(path))

    return judge


def by_function(place: str, folder: Path) -> Judge:
    """A function of the user's, as FILE.py:NAME. It gets a line of `answers.jsonl` and returns a score from 0 to 1."""
    function = _function(place)

    def judge(cell: CellEntry, lines: Lines) -> TaskScores:
        path = submission_file(folder, cell_key(cell), lines.id, ANSWERS)
        if not path.is_file():
            there = sorted((folder / "submissions").glob(f"*.{lines.id[:12]}/{ANSWERS}"))
            if not there:
                raise UserError(
                    f"{path}: not there. The run that answers the cell writes it: run the cell with --force"
                )
            path = there[0]
        found: dict[Any, Any] = {}
        for row in _objects(path):
            try:
                found[row["doc_id"]] = function(row)
            except Exception as error:
                reason = f"{in_a_line(error)}"
                raise UserError(f"{place}: fails on document {row['doc_id']}: {reason}") from error
        return _of_scores(cell, lines, found, place)

    return judge


def by_official(document: ResultDocument) -> Judge:
    """lmms-eval's own process_results and aggregation, which ask the judge that the environment variables name."""

    def judge(cell: CellEntry, lines: Lines) -> TaskScores:
        from evals.tasks.asked import Asked
        from evals.tasks.build import build, quiet

        task, answers = cell["task"], lines.answers
        spec = TaskSpec(
            task, document["data"][task], document.get("protocols", {}).get(task, document["protocol"]),
            document.get("data_versions", {}).get(task),
        )  # fmt: skip
        with quiet():
            built = build(spec)
            built.set_config("num_fewshot", 0)
            built.build_all_requests(limit=1 + max(answers))
            for instance in built.instances:
                instance.resps = [answers[instance.doc_id]["answer"]]
            failures = {(task, doc_id): str(one["error"]) for doc_id, one in answers.items() if one["error"]}
            return spec.task.judged(Asked(task, built, built.instances, failures))

    return judge


def _of_scores(cell: CellEntry, lines: Lines, given: Mapping[Any, Any], source: str) -> TaskScores:
    """The scores of a cell's samples: their mean times 100. Raises UserError for a sample without a score."""
    records = []
    for doc_id in sorted(score["doc_id"] for score in lines.scores):
        score = given.get(doc_id)
        if isinstance(score, bool):
            score = float(score)
        if not isinstance(score, int | float) or not math.isfinite(score) or not 0 <= score <= 1:
            raise UserError(
                f"{source}: document {doc_id} of {cell_key(cell)}: {shown(score)} is not a score from 0 to 1"
            )
        failed = lines.answers[doc_id]["error"] is not None
        records.append({"score": 0.0 if failed else float(score), "weight": 100.0})
    value = 100 * sum(record["score"] for record in records) / len(records)
    return TaskScores("judged", value, tuple(records))


def _function(place: str) -> Callable[[Mapping[str, Any]], Any]:
    path, _, name = place.rpartition(":")
    spec = importlib.util.spec_from_file_location("hidrop_judge", path) if path.endswith(".py") else None
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise UserError(f"--with {place}: not a function in a file. Write it as FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return getattr(module, name)
    except Exception as error:
        raise UserError(f"--with {place}: {in_a_line(error)}") from error


def _objects(path: Path) -> list[dict[str, Any]]:
    try:
        text = read_text(path)
    except Unreadable as reason:
        raise UserError(f"{path}: cannot be read: {reason}") from None
    found = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                raise UserError(f"{path}: line {number} is not JSON") from None
            if not isinstance(row, dict) or "doc_id" not in row:
                raise UserError(f"{path}: line {number} is not an object with a doc_id")
            found.append(row)
    return found
