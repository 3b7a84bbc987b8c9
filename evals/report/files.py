"""The files of a leaderboard, each written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.report.latex import latex
from evals.report.rows import Row, Score, rows_of, tasks_of
from evals.report.text import markdown
from evals.store.journal import write_atomically
from hidrop.errors import UserError


def write(document: Mapping[str, Any], out: Path) -> list[Path]:
    """Write leaderboard.md, .csv, .tex and .json into `out`, made if need be; return their paths.

    Each is written beside its place and renamed over it: a reader sees the old file or the new one. Raises UserError
    when the folder cannot be written to.
    """
    texts = {"md": markdown(document), "csv": csv_text(document), "tex": latex(document), "json": json_text(document)}
    paths = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            path = out / f"leaderboard.{suffix}"
            write_atomically(path, text)
            paths.append(path)
    except OSError as error:
        raise UserError(f"{out}: cannot write the results there: {error.strerror}. Choose another --out") from error
    return paths


def json_text(document: Mapping[str, Any], indent: int | None = 1) -> str:
    """The document as strict JSON: what is not a finite number is null, since NaN is no JSON. Ends with a newline."""
    return json.dumps(finite(document), indent=indent, allow_nan=False, ensure_ascii=False) + "\n"


def finite(value: Any) -> Any:
    """A copy made of what JSON knows, with null for NaN and the infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value


def csv_text(document: Mapping[str, Any]) -> str:
    """One line per model x method x budget in plain units: operations, bytes, milliseconds. Empty: not measured."""
    tasks = tasks_of(document)
    lines = [_fields(row, tasks) for row in rows_of(document)]
    header = list(lines[0]) if lines else ["model", "method", "label"]
    text = io.StringIO()
    writer = csv.DictWriter(text, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _fields(row: Row, tasks: list[str]) -> dict[str, Any]:
    times = {
        f"{what}_ms_{statistic}": _rounded(row.millis(what, statistic))
        for what in ("prefill", "decode", "ttft")
        for statistic in ("median", "p95", "min")
    }
    return {
        "model": row.model,
        "method": row.method,
        "label": row.label,
        "trained": str(row.trained).lower(),
        "budget": row.budget,
        "average_tokens": _rounded(row.average_tokens),
        "share": _rounded(row.share),
        "kept": row.kept,
        **{task: _score(row.scores[task]) for task in tasks},
        **{f"{task}_{name}": value for task in tasks for name, value in _statistics(row.stats.get(task, {})).items()},
        "percent_of_vanilla": _rounded(row.percent_of_vanilla),
        "flops": _whole(row.flops),
        "paper_macs": _whole(row.paper_macs),
        "kv_bytes": _whole(row.kv_bytes),
        "batch": row.profile.get("batch"),
        "text_tokens": row.profile.get("text_tokens"),
        **times,
        "peak_bytes": row.profile.get("peak_bytes"),
    }


def _statistics(stats: Mapping[str, Any]) -> dict[str, Any]:
    against = stats.get("against") or {}
    low, high = stats.get("interval") or (None, None)
    difference_low, difference_high = against.get("interval") or (None, None)
    numbers = {
        "low": low,
        "high": high,
        "difference": against.get("difference"),
        "difference_low": difference_low,
        "difference_high": difference_high,
        "p_holm": against.get("p_holm"),
    }
    counts = {name: against.get(name) for name in ("gained", "lost")}
    return (
        {name: _rounded(value) for name, value in numbers.items()}
        | counts
        | {"loyalty": _rounded(against.get("loyalty"))}
    )


def _score(score: Score) -> Score:
    return score if isinstance(score, str) else _rounded(score)


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)
