"""The result document: what `leaderboard.json` holds and `--json` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evals.matrix.resolve import Row
from evals.matrix.schema import Cell, Matrix
from hidrop.numerics import element_bytes
from hidrop.plan import TokenPlan

SCHEMA = 1
# Of each sample what statistics read, by model, label and task.
Scores = dict[tuple[str, str, str], list[dict[str, Any]]]
SCORE_FIELDS = ("doc_id", "reading", "target", "score", "image_key", "category", "group")


@dataclass(frozen=True)
class Asked:
    """Prompts of a cell that are alike: text and visual tokens, and what entered the layers where that was no plan."""

    text: int
    visual: int
    entering: tuple[int, ...] | None
    count: int

    def plan(self, row: Row) -> TokenPlan:
        """What each of them had in the layers."""
        return row.plan if self.entering is None else TokenPlan(row.plan.geometry, self.entering)


def asked(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The prompts of all samples that were answered, as JSON has them: one `Asked` for those that are alike."""
    kinds = Counter(
        (r["prompt_tokens"] - r["visual_tokens"], r["visual_tokens"], _tuple(r.get("entering")))
        for r in records
        if r["error"] is None
    )
    order = sorted(kinds.items(), key=lambda item: (item[0][:2], item[0][2] or ()))
    return [asdict(Asked(*kind, count)) for kind, count in order]


def _tuple(entering: Iterable[int] | None) -> tuple[int, ...] | None:
    return None if entering is None else tuple(entering)


def cell_entry(cell: Cell, row: Row, result: Mapping[str, Any], text_tokens: int) -> dict[str, Any]:
    """One number of the table with everything it stands on. `text_tokens` is used where no prompt was answered."""
    prompts = [Asked(**{**p, "entering": _tuple(p["entering"])}) for p in result["prompts"]]
    prompts = prompts or [Asked(text_tokens, row.plan.geometry.visual_tokens, None, 1)]
    element = element_bytes(result["dtype"])

    def mean(value: Callable[[TokenPlan, Asked], float]) -> float:
        return sum(p.count * value(p.plan(row), p) for p in prompts) / sum(p.count for p in prompts)

    entry = row_entry(row)
    if any(p.entering for p in prompts):  # not the row's plan for one image: what was counted takes its place
        entry["average_tokens"] = mean(lambda plan, _: plan.average_tokens)
        entry["share"] = entry["average_tokens"] / mean(lambda _, p: p.visual) if any(p.visual for p in prompts) else 0
        entry["kept"] = None if row.reducer.adaptive else row.plan.kept
        columns = zip(*([n * p.count for n in p.plan(row).entering] for p in prompts), strict=True)
        entry["entering"] = [round(sum(column) / sum(p.count for p in prompts)) for column in columns]
    return {
        **entry,
        "task": cell.task,
        "metric": result["metric"],
        "value": result["value"],
        "extra": result["extra"],
        "n": result["n"],
        "n_failed": result["n_failed"],
        "warnings": warnings(result),
        "percent_of_vanilla": None,
        "flops": round(mean(lambda plan, p: plan.flops(p.text))),
        "paper_macs": round(mean(lambda plan, _: plan.paper_macs())),
        "kv_bytes": round(mean(lambda plan, p: plan.kv_bytes(p.text, element))),
        "text_tokens": mean(lambda _, p: p.text),
        "seconds": result["seconds"],
    }


def warnings(result: Mapping[str, Any]) -> list[str]:
    """What looks wrong about a cell's answers as a whole. A model may be like that; mostly something is broken."""
    found, asked = [], result["n"] - result["n_failed"]
    if empty := result.get("n_empty", 0):
        found.append(f"{empty} of {asked} answers are empty")
    if asked > 1 and result.get("n_distinct") == 1:
        found.append(f"all {asked} answers are the same")
    return found


def row_entry(row: Row) -> dict[str, Any]:
    """What is known of a row before it runs, and is the same for all its cells."""
    return {
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


def cell_key(entry: Mapping[str, Any]) -> str:
    """model/label/task of a cell of the document, as `Cell.key` has it."""
    return f"{entry['model']}/{entry['label']}/{entry['task']}"


def vanilla_of(matrix: Matrix, cells: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """By model and task the vanilla cell that the model's are compared with: its `reference`'s, or its own."""
    own = {(cell["model"], cell["task"]): cell for cell in cells if cell["method"] == "vanilla"}
    names = {name: spec.reference or name for name, spec in matrix.models.items()}
    tasks = {task for _, task in own}
    return {(name, task): own[base, task] for name, base in names.items() for task in tasks if (base, task) in own}


def add_percentages(matrix: Matrix, cells: list[dict[str, Any]]) -> None:
    """Fill `base`, the key of the vanilla cell that each is compared with, and `percent_of_vanilla`."""
    vanilla = vanilla_of(matrix, cells)
    for cell in cells:
        against = vanilla.get((cell["model"], cell["task"]))
        cell["base"] = cell_key(against) if against else None
        base = against["value"] if against else None
        cell["percent_of_vanilla"] = 100 * cell["value"] / base if base and cell["value"] is not None else None


def add_stats(matrix: Matrix, cells: list[dict[str, Any]], scores: Scores) -> None:
    """Put `stats` (evals.store.statistics) into each cell whose samples are known, against its model's vanilla."""
    from evals.store import statistics

    vanilla = vanilla_of(matrix, cells)
    for task in dict.fromkeys(cell["task"] for cell in cells):
        own = {(c["model"], c["label"]): c for c in cells if c["task"] == task}
        rows = {}
        for key in own:
            base = vanilla.get((key[0], task))
            if samples := scores.get((*key, task)):
                rows[key] = statistics.Row(samples, (base["model"], base["label"]) if base else None)
        for key, found in statistics.task_stats(task, matrix.protocol, rows).items():
            own[key]["stats"] = found
    statistics.adjust([cell["stats"] for cell in cells if "stats" in cell])


def build(
    matrix: Matrix,
    out: Path,
    device: str,
    cells: list[dict[str, Any]],
    profiles: list[dict[str, Any]],
    failed: list[dict[str, Any]],
    scores: Scores,
) -> dict[str, Any]:
    """The whole document. Imports torch, for the hardware's description."""
    from hidrop.provenance import provenance

    add_percentages(matrix, cells)
    add_stats(matrix, cells, scores)
    return {
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
        **provenance(device),
        "cells": cells,
        "profiles": profiles,
        "failed": failed,
    }
