"""Builds the result document from a run's cells. `evals.store.result_document` has its types."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from evals.matrix.resolve import MatrixRow
from evals.matrix.schema import Cell, Matrix
from evals.store.records import PromptGroup, ProvenanceRecord, ResultRecord, ScoreRecord
from evals.store.result_document import (
    SCHEMA,
    CellEntry,
    CellStats,
    CorrelationEntry,
    FailureEntry,
    Hardware,
    ProfileEntry,
    Provenance,
    ResultDocument,
    RowEntry,
    cell_key,
    protocol_of,
)
from evals.store.scales import add_scale, judge_kind, measured_by
from evals.tasks.data import MINI, counted_rows
from hidrop.errors import UserError, in_a_line
from hidrop.numerics import element_bytes
from hidrop.plan import TokenPlan
from hidrop.provenance import PACKAGES

if TYPE_CHECKING:
    from evals.store.statistics import Row

# Failed samples count as wrong. Above this share of them a score is marked, as it says too little about the model.
FAILED_SHARE = 0.01

# The scores of a cell's samples, by model, label and task.
CellScores = dict[tuple[str, str, str], list[ScoreRecord]]


def _plan(prompts: PromptGroup, row: MatrixRow) -> TokenPlan:
    """The tokens per layer of each of these prompts: the counted tokens if they differ from the row's plan."""
    entering = prompts["entering"]
    return row.plan if entering is None else TokenPlan(row.plan.geometry, tuple(entering))


def cell_entry(cell: Cell, row: MatrixRow, result: ResultRecord, text_tokens: int, id: str) -> CellEntry:
    """One number of the table, with its counts of tokens, operations and bytes.

    text_tokens: used if no prompt was answered. id: the identity hash of the cell's journal.
    """
    whole: PromptGroup = {
        "text": text_tokens,
        "visual": row.plan.geometry.visual_tokens,
        "entering": None,
        "count": 1,
    }
    prompts = result["prompts"] or [whole]
    element = element_bytes(result["dtype"])

    def mean(value: Callable[[TokenPlan, PromptGroup], float]) -> float:
        return sum(p["count"] * value(_plan(p, row), p) for p in prompts) / sum(p["count"] for p in prompts)

    entry = row_entry(row)
    if any(p["entering"] for p in prompts):  # the counted tokens replace the row's plan, which is for one image
        visual = mean(lambda _, p: p["visual"])
        entry["average_tokens"] = mean(lambda plan, _: plan.average_tokens)
        total = entry["average_tokens"] / visual if visual else 0
        # A prompt without an image has no share. Each other one counts the same, however large its image.
        imaged = mean(lambda _, p: p["visual"] > 0)
        shares = mean(lambda plan, p: plan.average_tokens / p["visual"] if p["visual"] else 0)
        entry["share"] = shares / imaged if imaged else 0
        if len({p["visual"] for p in prompts}) > 1:
            entry["share_of_total"] = total
        entry["kept"] = None if row.reducer.adaptive else row.plan.kept
        columns = zip(*([n * p["count"] for n in _plan(p, row).entering] for p in prompts), strict=True)
        entry["entering"] = [round(sum(column) / sum(p["count"] for p in prompts)) for column in columns]
    found: CellEntry = {
        **entry,
        "task": cell.task,
        "metric": result["metric"],
        "value": result["value"],
        "extra": result["extra"],
        "n": result["n"],
        "n_failed": result["n_failed"],
        "warnings": warnings(result),
        "percent_of_vanilla": None,
        "flops": round(mean(lambda plan, p: plan.flops(p["text"]))),
        "paper_macs": round(mean(lambda plan, _: plan.paper_macs())),
        "kv_bytes": round(mean(lambda plan, p: plan.kv_bytes(p["text"], element))),
        "text_tokens": mean(lambda _, p: p["text"]),
        "seconds": result["seconds"],
        "id": id,
        "base": None,
    }
    if "preparing_seconds" in result:
        found["preparing_seconds"] = result["preparing_seconds"]
    if "scoring_seconds" in result:
        found["scoring_seconds"] = result["scoring_seconds"]
    if "unscored" in result:
        found["unscored"] = result["unscored"]
    if "judge" in result:
        found["judge"] = result["judge"]["name"]
        found["judge_kind"] = judge_kind(result["metric"], result["judge"])
    add_scale(found)
    return found


def sessions(made: Iterable[ProvenanceRecord]) -> list[Provenance]:
    """Where and with what a cell was answered, one entry for each session, in the order of a document's fields."""
    return [
        {
            "hardware": cast("Hardware", _ordered(one["hardware"], list(Hardware.__annotations__))),
            "versions": _ordered(one["versions"], ["python", *PACKAGES]),
            "commit": one["commit"],
            "date": one["date"],
        }
        for one in made
    ]


def _ordered(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The values with these names first; a journal stores them sorted."""
    first = {name: values[name] for name in names if name in values}
    return {**first, **{name: value for name, value in values.items() if name not in first}}


def warnings(result: ResultRecord) -> list[str]:
    """Signs of broken data or a broken cell in the answers as a whole. Models can answer like this, but rarely do."""
    found, failed, answered = [], result["n_failed"], result["n"] - result["n_failed"]
    if failed > FAILED_SHARE * result["n"]:
        share = f"{100 * failed / result['n']:.1f} %"
        found.append(f"{failed} of {result['n']} samples failed ({share}, more than {100 * FAILED_SHARE:g} %)")
    if empty := result.get("n_empty", 0):
        found.append(f"{empty} of {answered} answers are empty")
    if answered > 1 and result.get("n_distinct") == 1:
        found.append(f"all {answered} answers are the same")
    return found


def row_entry(row: MatrixRow) -> RowEntry:
    """What is known of a row before it runs, equal for all its cells."""
    entry: RowEntry = {
        "model": row.model,
        "method": row.method,
        "label": row.label,
        "group": row.group,
        "trained": row.trained,
        "adaptive": row.reducer.adaptive,
        "average_tokens": row.plan.average_tokens,
        "share": row.plan.share,
        "kept": row.plan.kept,
        "budget": row.budget,
        "entering": list(row.plan.entering),
        "image_tokens": row.plan.geometry.visual_tokens,
    }
    if row.nominal:
        entry["nominal"] = True
    if code := row.code:
        entry["code"] = code
    return entry


def vanilla_of(matrix: Matrix, cells: Iterable[CellEntry]) -> dict[tuple[str, str], CellEntry]:
    """By model and task, the vanilla cell of the model's `reference`, or of the model itself."""
    own = {(cell["model"], cell["task"]): cell for cell in cells if cell["method"] == "vanilla"}
    names = {name: spec.reference or name for name, spec in matrix.models.items()}
    tasks = {task for _, task in own}
    return {(name, task): own[base, task] for name, base in names.items() for task in tasks if (base, task) in own}


def percent_of(cell: CellEntry, base: CellEntry | None) -> float | None:
    """A cell's value in percent of its vanilla's; None where smaller is better, or where they are not comparable."""
    if base is None or cell.get("lower_is_better") or measured_by(cell) != measured_by(base):
        return None
    return 100 * cell["value"] / base["value"] if base["value"] and cell["value"] is not None else None


def add_percentages(matrix: Matrix, cells: Sequence[CellEntry]) -> None:
    """Fill `base`, the key of the vanilla cell for the comparison, and `percent_of_vanilla`."""
    vanilla = vanilla_of(matrix, cells)
    for cell in cells:
        against = vanilla.get((cell["model"], cell["task"]))
        cell["base"] = cell_key(against) if against else None
        cell["percent_of_vanilla"] = percent_of(cell, against)


def add_stats(matrix: Matrix, cells: Sequence[CellEntry], scores: CellScores) -> list[CorrelationEntry]:
    """Add `stats` (evals.store.statistics) to each cell with known samples, in comparison with its model's vanilla.

    Returns the document's `correlations`.
    """
    from evals.store import statistics

    vanilla, together = vanilla_of(matrix, cells), list[CorrelationEntry]()
    for task in dict.fromkeys(cell["task"] for cell in cells):
        own = {(c["model"], c["label"]): c for c in cells if c["task"] == task}
        rows: dict[Any, statistics.Row] = {}
        for key in own:
            base = vanilla.get((key[0], task))
            if samples := scores.get((*key, task)):
                rows[key] = statistics.Row(samples, (base["model"], base["label"]) if base else None)
        together += _add_task_stats(task, matrix.tasks[task].protocol or matrix.protocol, own, rows)
    _adjust(cells)
    return together


def _add_task_stats(
    task: str, protocol: str, cells: Mapping[Any, CellEntry], rows: Mapping[Any, Row]
) -> list[CorrelationEntry]:
    """Add the `stats` of one task's cells, and return its correlations.

    Cells of different judges or metrics are not compared.
    """
    from evals.store import statistics

    together: list[CorrelationEntry] = []
    for one in dict.fromkeys(measured_by(cells[key]) for key in rows):
        own = {key: row for key, row in rows.items() if measured_by(cells[key]) == one}
        stats, correlated = statistics.stats_together(task, protocol, own)
        for key, found in stats.items():
            cells[key]["stats"] = cast(CellStats, found)
        for each in correlated:
            names = [f"{cells[key]['model']}/{cells[key]['label']}" for key in each.rows]
            together.append({"task": task, "rows": names, "upper": each.upper})
    return together


def _adjust(cells: Iterable[CellEntry]) -> None:
    from evals.store import statistics

    statistics.adjust([cast("dict[str, Any]", cell["stats"]) for cell in cells if "stats" in cell])


def withdraw(document: ResultDocument, task: str) -> None:
    """Remove the statistics of a task whose values have changed, and compute its percentages again."""
    known = {cell_key(cell): cell for cell in document["cells"]}
    for cell in document["cells"]:
        if cell["task"] == task:
            cell["percent_of_vanilla"] = percent_of(cell, known.get(str(cell["base"])))
            cell.pop("stats", None)
    if "correlations" in document:
        document["correlations"] = [one for one in document["correlations"] if one["task"] != task]
    _adjust(document["cells"])


def compare_again(document: ResultDocument, folder: Path, tasks: Iterable[str]) -> list[str]:
    """Compare the cells of some tasks with vanilla again, after their values have changed.

    Returns one line for each task that has no statistics, because its samples cannot be read or aggregated here: its
    cells keep their values.
    """
    problems = []
    for task in tasks:
        withdraw(document, task)
        try:
            _compare_task(document, folder, task)
        except Exception as error:  # the aggregation may be a user's own function
            withdraw(document, task)
            problems.append(f"{task}: no statistics: {error if isinstance(error, UserError) else in_a_line(error)}")
    _adjust(document["cells"])
    return problems


def _compare_task(document: ResultDocument, folder: Path, task: str) -> None:
    from evals.store import statistics
    from evals.store.folders import samples_of

    cells = {cell_key(cell): cell for cell in document["cells"] if cell["task"] == task}
    rows: dict[Any, statistics.Row] = {}
    for key, cell in cells.items():
        if cell["value"] is not None and (samples := samples_of(folder, cell)):
            rows[key] = statistics.Row(samples, cell["base"])
    together = _add_task_stats(task, protocol_of(document, task), cells, rows)
    document["correlations"] = [*document.get("correlations", ()), *together]


def build(
    matrix: Matrix,
    out: Path,
    device: str,
    cells: list[CellEntry],
    profiles: list[ProfileEntry],
    failed: list[FailureEntry],
    scores: CellScores,
) -> ResultDocument:
    """The whole document. Imports torch, for the hardware's description."""
    from hidrop.provenance import provenance

    add_percentages(matrix, cells)
    together = add_stats(matrix, cells, scores)
    made = provenance(device)
    versions = {name: spec.version for name, spec in matrix.tasks.items() if spec.version is not None}
    found: ResultDocument = {
        "schema": SCHEMA,
        "matrix": matrix.name,
        "out": str(out),
        "protocol": matrix.protocol,
        "limit": matrix.limit,
        "budget_reading": matrix.budget_reading,
        "dtype": matrix.dtype,
        "attention": matrix.attention,
        "batch_size": matrix.batch_size,
        "sources": {name: spec.source for name, spec in matrix.models.items()},
        "data": {name: spec.data for name, spec in matrix.tasks.items()},
        "hardware": made["hardware"],
        "versions": made["versions"],
        "commit": made["commit"],
        "date": made["date"],
        "cells": cells,
        "profiles": profiles,
        "failed": failed,
    }
    if together:
        found["correlations"] = together
    if versions:
        found["data_versions"] = versions
    if matrix.groups:
        found["groups"] = {name: list(tasks) for name, tasks in matrix.groups.items()}
    others = {
        name: spec.protocol for name, spec in matrix.tasks.items() if spec.protocol not in (None, matrix.protocol)
    }
    if others:
        found["protocols"] = cast("dict[str, str]", others)
    if rows := data_rows(matrix, {cell["task"] for cell in cells}):
        found["data_rows"] = rows
    asked = {cell["task"] for cell in cells}
    if own := {name: task.yaml for name, task in matrix.tasks.items() if task.yaml is not None and name in asked}:
        found["own_tasks"] = own
    return found


def data_rows(matrix: Matrix, tasks: Collection[str]) -> dict[str, int]:
    """The number of documents in each task's files. Without the embedded benchmark, and without files that are gone."""
    found = {}
    for name, spec in matrix.tasks.items():
        if name not in tasks or spec.data == MINI:
            continue
        try:
            rows = counted_rows(matrix.task_spec(name))
        except (OSError, ValueError, UserError):  # the files were moved or replaced during the run
            continue
        if rows:
            found[name] = rows
    return found
