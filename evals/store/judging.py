"""Scores that a judge gives later to cells whose answers were only written (`unscored: to judge`).

A run writes `submissions/<cell>.<id>/answers.jsonl`, one line for each document: doc_id, question, answer, target. A
judge is a file of judgements, a function of the user's, or lmms-eval's own functions, which ask the server that their
environment variables name. The journal then has the scores, and a result that names the judge and the day.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from evals.store.cell_files import SUBMISSIONS, existing, submitted
from evals.store.document import compare_again
from evals.store.folders import DOCUMENT, read_document
from evals.store.journal import Lines
from evals.store.records import ResultRecord, SampleRecord, ScoreRecord
from evals.store.result_document import CellEntry, ResultDocument, cell_key
from evals.tasks.base import TO_JUDGE, TaskScores
from evals.tasks.data import TaskSpec
from hidrop import provenance
from hidrop.errors import UserError, did_you_mean, in_a_line, shortened, shown
from hidrop.regular_files import Unreadable, read_text

ANSWERS = "answers.jsonl"
# The fields of a sample's record that a judge gives, and that another judge replaces.
OF_A_JUDGE = ("score", "weight", "item", "metric")

# A cell to its scores.
Judge = Callable[[CellEntry, Lines], TaskScores]


@dataclass(frozen=True)
class Judged:
    """A cell that has a value now."""

    cell: str
    metric: str
    value: float


def judge_cells(
    folder: Path, judge: Judge, *, named: str, only: str = "", again: bool = False
) -> tuple[ResultDocument, list[Judged], list[str]]:
    """Score the cells of a results folder that wait for a judge.

    Returns the document with the new values, and one line for each cell that could not be scored: the others keep
    theirs, as a judge may be slow or cost money. named: the judge, for the journals and the caption. only: part of the
    keys ("model/label/task") of the cells. again: also cells that a judge has scored, whose scores are replaced. Raises
    UserError if no cell waits.
    """
    document = read_document(folder)
    own = [cell for cell in document["cells"] if only in cell_key(cell)]
    scored = [cell for cell in own if "judge" in cell]
    waiting = [cell for cell in own if cell.get("unscored") == TO_JUDGE or (again and cell in scored)]
    if not waiting:
        among = f" among those with '{only}'" if only else ""
        way = f". {len(scored)} have scores by {scored[0]['judge']}: --again replaces them" if scored else ""
        raise UserError(f"{folder / DOCUMENT}: no cell waits for a judge{among}{way}")
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
        cell.pop("unscored", None)
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
        asked = {name: one for name, one in before[doc_id].items() if name not in OF_A_JUDGE}
        made.append(cast("ScoreRecord", {**asked, **record}))
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
        if strange := {row["doc_id"] for row in own if row.get("cell")} - {score["doc_id"] for score in lines.scores}:
            raise UserError(f"{path}: {cell_key(cell)} has no document {shown(min(strange, key=str))}")
        return _of_scores(cell, lines, {row["doc_id"]: row.get("score") for row in own}, str(path))

    return judge


def by_function(place: str, folder: Path) -> Judge:
    """A function of the user's, as FILE.py:NAME. It gets a line of `answers.jsonl` and returns a score from 0 to 1."""
    function = _function(place)

    def judge(cell: CellEntry, lines: Lines) -> TaskScores:
        there = submitted(folder, lines.id, ANSWERS)
        if not there:
            raise UserError(f"{folder / SUBMISSIONS}: no {ANSWERS} of this cell. The same `run` again writes it")
        found: dict[Any, Any] = {}
        for row in _objects(there[0]):
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
        from evals.tasks.build import quiet
        from evals.tasks.evaluation import from_journal

        task = cell["task"]
        spec = TaskSpec(
            task, document["data"][task], document.get("protocols", {}).get(task, document["protocol"]),
            document.get("data_versions", {}).get(task),
        )  # fmt: skip
        with quiet(), _logged_errors() as errors:
            asked = from_journal(spec, cast("dict[int, dict[str, Any]]", lines.answers))
            scores = spec.task.judged(asked)
        if len(errors) >= len(asked.doc_ids):
            raise UserError(
                f"the judge did not answer: lmms-eval's functions logged {len(errors)} errors on {len(asked.doc_ids)} "
                f"documents, and count such documents as 0. First: {shortened(errors[0])}. The cell still waits"
            )
        return scores

    return judge


@contextlib.contextmanager
def _logged_errors() -> Iterator[list[str]]:
    """A block, and the errors that lmms-eval's functions log in it instead of raising them."""
    from loguru import logger

    found: list[str] = []
    sink = logger.add(lambda line: found.append(str(line.record["message"])), level="ERROR")
    try:
        yield found
    finally:
        logger.remove(sink)


def _of_scores(cell: CellEntry, lines: Lines, given: Mapping[Any, Any], source: str) -> TaskScores:
    """The scores of a cell's samples: their mean times 100. Raises UserError for a sample without a score."""
    records = []
    for doc_id in sorted(score["doc_id"] for score in lines.scores):
        if doc_id not in given:
            raise UserError(f"{source}: no score for document {doc_id}")
        score = given[doc_id]
        if isinstance(score, bool):
            score = float(score)
        if not isinstance(score, int | float) or not math.isfinite(score) or not 0 <= score <= 1:
            raise UserError(f"{source}: document {doc_id}: {shown(score)} is not a score from 0 to 1")
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
    except Exception as error:
        raise UserError(f"--with {place}: {path} fails: {in_a_line(error)}") from error
    known = [one for one, value in vars(module).items() if callable(value)]
    if name not in known:
        raise UserError(f"--with {place}: {path} has no function '{name}'.{did_you_mean(name, known)}")
    return getattr(module, name)


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
