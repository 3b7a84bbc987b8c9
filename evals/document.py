"""The result document: what `leaderboard.json` holds and `--json` prints."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evals.matrix import Cell, Matrix
from evals.resolve import Row

SCHEMA = 1
ELEMENT_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def cell_entry(cell: Cell, row: Row, result: Mapping[str, Any], text_tokens: int) -> dict[str, Any]:
    """One number of the table with everything it stands on. `text_tokens` is used where the run counted none."""
    lengths = {int(n): count for n, count in result.get("text_tokens", {}).items()} or {text_tokens: 1}
    element = ELEMENT_BYTES[result["dtype"]]
    return {
        **row_entry(row),
        "task": cell.task,
        "metric": result["metric"],
        "value": result["value"],
        "extra": result["extra"],
        "n": result["n"],
        "n_failed": result["n_failed"],
        "percent_of_vanilla": None,
        "flops": round(weighted(lengths, row.plan.flops)),
        "paper_macs": row.plan.paper_macs(),
        "kv_bytes": round(weighted(lengths, lambda n: row.plan.kv_bytes(n, element))),
        "text_tokens": weighted(lengths, float),
        "seconds": result["seconds"],
    }


def row_entry(row: Row) -> dict[str, Any]:
    """What is known of a row before it runs, and is the same for all its cells."""
    return {
        "model": row.model,
        "method": row.method,
        "label": row.label,
        "group": row.group,
        "trained": row.trained,
        "average_tokens": row.plan.average_tokens,
        "share": row.plan.share,
        "kept": row.plan.kept,
        "budget": row.budget,
        "entering": list(row.plan.entering),
    }


def weighted(lengths: Mapping[int, int], value: Any) -> float:
    """Mean of `value(length)` over samples, given how many samples have each length."""
    return sum(value(length) * count for length, count in lengths.items()) / sum(lengths.values())


def text_lengths(records: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """How many samples have how many text tokens, with keys as JSON has them."""
    counts = Counter(r["prompt_tokens"] - r["visual_tokens"] for r in records if r["error"] is None)
    return {str(length): counts[length] for length in sorted(counts)}


def add_percentages(matrix: Matrix, cells: list[dict[str, Any]]) -> None:
    """Fill `percent_of_vanilla`: against the vanilla row of the model's `reference`, or of the model itself."""
    vanilla = {(c["model"], c["task"]): c["value"] for c in cells if c["method"] == "vanilla"}
    for cell in cells:
        reference = matrix.models[cell["model"]].reference or cell["model"]
        base = vanilla.get((reference, cell["task"]))
        cell["percent_of_vanilla"] = 100 * cell["value"] / base if base and cell["value"] is not None else None


def build(
    matrix: Matrix,
    out: Path,
    device: str,
    cells: list[dict[str, Any]],
    profiles: list[dict[str, Any]],
    failed: list[dict[str, Any]],
) -> dict[str, Any]:
    """The whole document. Imports torch, for the hardware's description."""
    from evals.profiling.hardware import describe, versions

    add_percentages(matrix, cells)
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
        "hardware": describe(device),
        "versions": versions(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cells": cells,
        "profiles": profiles,
        "failed": failed,
    }
