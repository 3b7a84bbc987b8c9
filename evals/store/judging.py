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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from evals.store.cell_files import SUBMISSIONS, existing, submitted
from evals.store.document import compare_again, withdraw
from evals.store.folders import DOCUMENT
from evals.store.journal import Lines
from evals.store.records import ResultRecord, SampleRecord, ScoreRecord
from evals.store.result_document import CellEntry, JudgeKind, ResultDocument, cell_key, protocol_of
from evals.store.scales import JUDGED, add_scale
from evals.tasks.base import TO_JUDGE, TaskScores
from evals.tasks.data import TaskSpec, data_digest
from hidrop import provenance
from hidrop.errors import UserError, did_you_mean, in_a_line, shortened, shown
from hidrop.regular_files import Unreadable, read_text

ANSWERS = "answers.jsonl"
# The fields of a sample's record that a judge gives, and that another judge replaces.
OF_A_JUDGE = ("score", "weight", "item", "metric")


@dataclass(frozen=True)
class Judge:
    """kind: see `JudgeKind`. scores: a cell and its journal to scores."""

    kind: JudgeKind
    scores: Callable[[CellEntry, Lines], TaskScores]


@dataclass(frozen=True)
class Judged:
    """A cell that has a value now."""

    cell: str
    metric: str
    value: float


@dataclass
class Outcome:
    """problems: one line for each cell that could not be scored. notes: one for each task without statistics."""

    found: list[Judged] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def waiting(document: ResultDocument, only: str = "", *, again: bool = False) -> list[CellEntry]:
    """The cells that wait for a judge. only: part of their keys ("model/label/task"). again: also the judged ones."""
    own = [cell for cell in document["cells"] if only in cell_key(cell)]
    return [cell for cell in own if cell.get("unscored") == TO_JUDGE or (again and "judge" in cell)]


def judge_cells(
    folder: Path,
    document: ResultDocument,
    judge: Judge,
    save: Callable[[ResultDocument], object],
    *,
    named: str,
    only: str = "",
    again: bool = False,
) -> Outcome:
    """Score the cells of a results folder that wait for a judge (`waiting`), whose scores are replaced with `again`.

    A cell that cannot be scored costs the others nothing, as a judge may be slow or cost money. save: writes the
    document. It is called after each cell, and at the end with the statistics, also when the judge is interrupted: the
    document never says something else than the journals. named: the judge, for the journals and the caption. Raises
    UserError if no cell waits.
    """
    cells, outcome = waiting(document, only, again=again), Outcome()
    if not cells:
        scored = [cell for cell in waiting(document, only, again=True) if "judge" in cell]
        among = f" among those with '{only}'" if only else ""
        way = f". {len(scored)} have scores by {scored[0]['judge']}: --again replaces them" if scored else ""
        raise UserError(f"{folder / DOCUMENT}: no cell waits for a judge{among}{way}")
    changed: dict[str, None] = {}
    try:
        for cell in cells:
            try:
                lines = _lines(folder, cell)
                scores = judge.scores(cell, lines)
                value = _finish(lines, scores, named, judge.kind)
            except Exception as error:  # a judge is a function of the user's, or of lmms-eval
                reason = str(error) if isinstance(error, UserError) else in_a_line(error)
                outcome.problems.append(f"{cell_key(cell)}: {reason}")
                continue
            cell["value"], cell["metric"], cell["extra"] = value, scores.metric, dict(scores.extra)
            cell["judge"], cell["judge_kind"] = named, judge.kind
            cell.pop("unscored", None)
            add_scale(cell)
            outcome.found.append(Judged(cell_key(cell), scores.metric, value))
            changed[cell["task"]] = None
            withdraw(document, cell["task"])
            save(document)
    finally:
        if changed:
            outcome.notes += compare_again(document, folder, changed)
            save(document)
    return outcome


def _lines(folder: Path, cell: CellEntry) -> Lines:
    path = next((path for path in existing(folder, cell["id"] or "-") if path.is_file()), None)
    if path is None:
        raise UserError(
            f"{folder}: the journal of {cell_key(cell)} is not there: without its answers, nothing can be judged"
        )
    return Lines.of(path)


def _finish(lines: Lines, scores: TaskScores, named: str, kind: JudgeKind) -> float:
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
    made.append(cast("ResultRecord", {**new, "judge": {"name": named, "date": provenance.now(), "kind": kind}}))
    lines.replace(made)
    return value


# ---- judges --------------------------------------------------------------------------------------------------------


def by_file(path: Path, cells: Sequence[CellEntry]) -> Judge:
    """Judgements in JSON lines: {"doc_id": 3, "score": 0.5, "cell": "a/b/mmvet"}, with scores from 0 to 1.

    cells: those that wait. A line needs no "cell" if one cell waits. Raises UserError, before a cell is scored, for a
    line whose cell is not known, and for two scores of one document.
    """
    keys = [cell_key(cell) for cell in cells]
    given: dict[str, dict[int, Any]] = {}
    for row in _objects(path):
        key = row.get("cell")
        if key is None and len(keys) > 1:
            raise UserError(
                f'{path}: document {row["doc_id"]} has no "cell", and {len(keys)} cells wait: {", ".join(keys)}. Add '
                '"cell" to each line, or choose one cell with --only'
            )
        if key is None:
            key = keys[0] if keys else ""
        if not isinstance(key, str):
            raise UserError(f"{path}: document {row['doc_id']}: {shown(key)} is not the name of a cell")
        own = given.setdefault(key, {})
        if row["doc_id"] in own:
            raise UserError(f"{path}: document {row['doc_id']} of {key} has two scores")
        own[row["doc_id"]] = row.get("score")

    def scores(cell: CellEntry, lines: Lines) -> TaskScores:
        own = given.get(cell_key(cell), {})
        if strange := own.keys() - {score["doc_id"] for score in lines.scores}:
            raise UserError(f"{path}: {cell_key(cell)} has no document {min(strange)}")
        return _of_scores(lines, own, str(path))

    return Judge("file", scores)


def by_function(place: str, folder: Path) -> Judge:
    """A function of the user's, as FILE.py:NAME. It gets a line of `answers.jsonl` and returns a score from 0 to 1."""
    function = _function(place)

    def scores(cell: CellEntry, lines: Lines) -> TaskScores:
        there = submitted(folder, lines.id, ANSWERS)
        if not there:
            raise UserError(f"{folder / SUBMISSIONS}: no {ANSWERS} of this cell. The same `run` again writes it")
        found: dict[Any, Any] = {}
        for row in _objects(there[0]):
            try:
                found[row["doc_id"]] = function(row)
            except Exception as error:
                reason = in_a_line(error)
                raise UserError(f"{place}: fails on document {row['doc_id']}: {reason}") from error
        return _of_scores(lines, found, place)

    return Judge("function", scores)


def by_official(document: ResultDocument) -> Judge:
    """lmms-eval's own process_results and aggregation, which ask the judge that the environment variables name.

    The metric is that of the cell's matrix. Other data than the cell was asked is refused: the doc_ids are positions.
    """

    def judged(cell: CellEntry, lines: Lines) -> TaskScores:
        from evals.tasks.build import quiet
        from evals.tasks.evaluation import from_journal

        task, identity = cell["task"], lines.header["identity"]
        version = document.get("data_versions", {}).get(task)
        spec = TaskSpec(task, document["data"][task], protocol_of(document, task), version, identity.get("metric"))
        if data_digest(spec) != identity.get("data"):
            raise UserError(
                f"the data of {task} is not what the cell was asked: it was replaced, or '{spec.data}' is another "
                "folder here. Restore it, or run the matrix again"
            )
        with quiet(), _logged_errors() as errors:
            asked = from_journal(spec, cast("dict[int, dict[str, Any]]", lines.answers))
            scores = spec.task.judged(asked)
        if len(errors) >= len(asked.doc_ids):
            raise UserError(
                f"the judge did not answer: lmms-eval's functions logged {len(errors)} errors on {len(asked.doc_ids)} "
                f"documents, and count such documents as 0. First: {shortened(errors[0])}. The cell still waits"
            )
        return scores

    return Judge("official", judged)


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


def _of_scores(lines: Lines, given: Mapping[Any, Any], source: str) -> TaskScores:
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
    return TaskScores(JUDGED, value, tuple(records))


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
            if type(row["doc_id"]) is not int:
                raise UserError(f"{path}: line {number}: doc_id {shown(row['doc_id'])} is not a whole number")
            found.append(row)
    return found
