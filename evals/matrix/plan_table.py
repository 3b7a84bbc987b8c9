"""The table of `run.py plan`: tokens, operations and KV cache of each row of a matrix, computed from its plan."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from rich.table import Table

from evals.matrix.resolve import MatrixRow
from evals.matrix.schema import Matrix
from evals.plain_table import aligned
from hidrop.numerics import element_bytes


def run_lengths(entering: Iterable[int]) -> str:
    """(576, 576, 64, 64, 64) -> "2x576 3x64": runs of consecutive layers with the same number of visual tokens."""
    return " ".join(f"{sum(1 for _ in group)}x{tokens}" for tokens, group in itertools.groupby(entering))


def entry(row: MatrixRow, matrix: Matrix) -> dict[str, Any]:
    """One row of the plan, as `--json` prints it."""
    dtype = matrix.models[row.model].dtype or matrix.dtype
    return {
        "model": row.model,
        "label": row.label,
        "method": row.method,
        "trained": row.trained,
        "budget": row.budget,
        "budget_reading": matrix.budget_reading,
        "published_as": row.reducer.published_as,
        "adaptive": row.reducer.adaptive,
        "bound": row.reducer.bound,
        "share": row.plan.share,
        "average_tokens": row.plan.average_tokens,
        "kept": row.plan.kept,
        "reference_tokens": row.plan.geometry.visual_tokens if row.plan.geometry.dynamic else None,
        "entering": list(row.plan.entering),
        "text_tokens": matrix.text_tokens,
        "flops": row.plan.flops(matrix.text_tokens),
        "paper_macs": row.plan.paper_macs(),
        "kv_bytes": row.plan.kv_bytes(matrix.text_tokens, element_bytes(dtype)),
    }


HEADINGS = ("model", "method", "share", "average", "kept", "paper MACs", "FLOPs", "KV cache", "layers x visual tokens")


def cells_of(entry: dict[str, Any]) -> tuple[str, ...]:
    """The texts of a row, one for each of HEADINGS."""
    most = f"{entry['bound']} " if entry["bound"] else ""
    return (
        entry["model"],
        f"{entry['method']} (trained)" if entry["trained"] else entry["label"] + published(entry["published_as"]),
        f"{most}{100 * entry['share']:.1f} %",
        f"{most}{entry['average_tokens']:.2f}",
        f"{most}{entry['kept']}",
        most + scaled(entry["paper_macs"]),
        most + scaled(entry["flops"]),
        f"{most}{entry['kv_bytes'] / 2**20:.1f} MiB",
        "depends on the sample" if entry["bound"] == "<=" else most + run_lengths(entry["entering"]),
    )


def published(name: str | None) -> str:
    """The authors' name for a setting, in quotes, where it differs from the average."""
    return f' ("{name}")' if name else ""


def scaled(count: float) -> str:
    """3.82e12 -> "3.82 T"."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= size / 10:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f}"


def table(matrix: Matrix, entries: list[dict[str, Any]]) -> Table:
    """The plan for a terminal."""
    rendered = Table(title=f"{matrix.name}: {len(entries)} rows", caption=caption(matrix, entries))
    for heading in HEADINGS:
        numeric = heading not in (HEADINGS[0], HEADINGS[1], HEADINGS[-1])
        rendered.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric)
    model = None
    for one in entries:
        if model not in (None, one["model"]):
            rendered.add_section()
        model = one["model"]
        rendered.add_row(*cells_of(one))
    return rendered


def plain(matrix: Matrix, entries: list[dict[str, Any]]) -> str:
    """The plan as aligned text, for a pipe."""
    return "\n".join([*aligned([HEADINGS, *map(cells_of, entries)]), caption(matrix, entries)]) + "\n"


def caption(matrix: Matrix, entries: list[dict[str, Any]]) -> str:
    if matrix.budget_reading == "average":
        reading = "A budget is the average number of visual tokens per layer."
    else:
        reading = "A budget is the number of visual tokens that are kept after the last cut."
    sizes = sorted({entry["reference_tokens"] for entry in entries if entry["reference_tokens"]})
    if sizes:
        stated = " or ".join(map(str, sizes))
        reading += f" Images have their own numbers of tokens: shares hold for all, numbers for an image of {stated}."
    return (
        f"{reading} In quotes: the authors' name for a setting. FLOPs: all operations of one prefill with "
        f"{matrix.text_tokens} text tokens, without the vision tower and the LM head. Paper MACs: the papers' count, "
        "of visual tokens only, with one multiply-accumulate as 1. <=: the number depends on the sample. ~: tied "
        "scores may add to it."
    )
