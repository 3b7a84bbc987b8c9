"""The table of `run.py plan`: tokens, operations and KV cache of each row of a matrix, computed from its plan."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from evals.plain_table import aligned, within
from hidrop.numerics import element_bytes
from hidrop.plan import TokenPlan

if TYPE_CHECKING:
    from evals.matrix.resolve import MatrixRow
    from evals.matrix.schema import Matrix


def run_lengths(entering: Iterable[int]) -> str:
    """(576, 576, 64, 64, 64) -> "2x576 3x64": runs of consecutive layers with the same number of visual tokens."""
    return " ".join(f"{sum(1 for _ in group)}x{tokens}" for tokens, group in itertools.groupby(entering))


def entry(row: MatrixRow, matrix: Matrix, plan: TokenPlan | None = None) -> dict[str, Any]:
    """One row of the plan, as `--json` prints it. `plan`: that of another image than the model's own."""
    plan = plan or row.plan
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
        "share": plan.share,
        "average_tokens": plan.average_tokens,
        "kept": plan.kept,
        "reference_tokens": plan.geometry.visual_tokens if plan.geometry.dynamic else None,
        "entering": list(plan.entering),
        "text_tokens": matrix.text_tokens,
        "flops": plan.flops(matrix.text_tokens),
        "paper_macs": plan.paper_macs(),
        "kv_bytes": plan.kv_bytes(matrix.text_tokens, element_bytes(dtype)),
    }


IMAGE_HEADINGS = ("image", "tokens")  # for a plan of stated images
# What a narrow terminal does without, the least important first.
DROPPED = ("paper MACs", "kept", "KV cache", "average", "layers x visual tokens", "FLOPs", "tokens")
HEADINGS = ("model", "method", "share", "average", "kept", "paper MACs", "FLOPs", "KV cache", "layers x visual tokens")


def cells_of(entry: dict[str, Any]) -> tuple[str, ...]:
    """The texts of a row, one for each of HEADINGS."""
    most = f"{entry['bound']} " if entry["bound"] else ""
    return (
        entry["model"],
        f"{entry['method']} (trained)" if entry["trained"] else entry["label"] + published(entry["published_as"]),
        f"{most}{100 * entry['share']:.1f} %",
        f"{most}{entry['average_tokens']:.2f}",
        f"{most}{entry['kept']:g}" if entry["kept"] is not None else "",
        most + scaled(entry["paper_macs"]),
        most + scaled(entry["flops"]),
        f"{most}{entry['kv_bytes'] / 2**20:.1f} MiB",
        _layers(entry, most),
    )


def _layers(entry: dict[str, Any], most: str) -> str:
    if entry["bound"] == "<=":
        return "depends on the sample"
    return "depends on the image" if entry["entering"] is None else most + run_lengths(entry["entering"])


def headed(entries: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Headings and rows, with images and their numbers of tokens where the plan is of stated images."""
    if not any("image" in entry for entry in entries):
        return [HEADINGS, *map(cells_of, entries)]
    rows: list[tuple[str, ...]] = [(HEADINGS[0], *IMAGE_HEADINGS, *HEADINGS[1:])]
    for entry in entries:
        model, *rest = cells_of(entry)
        rows.append((model, entry["image"], f"{entry['visual_tokens']:g}", *rest))
    return rows


def published(name: str | None) -> str:
    """The authors' name for a setting, in quotes, where it differs from the average."""
    return f' ("{name}")' if name else ""


def scaled(count: float) -> str:
    """3.82e12 -> "3.82 T"."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= size / 10:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f}"


def screen(matrix: Matrix, entries: list[dict[str, Any]], width: int) -> str:
    """The plan for a terminal. Columns that do not fit into `width` are left out, see DROPPED, and named."""
    lines, models = headed(entries), list(dict.fromkeys(one["model"] for one in entries))
    title = f"{matrix.name}: {len(entries)} rows"
    if len(models) == 1:
        lines, title = [line[1:] for line in lines], f"{title} of {models[0]}"
    lines, left_out = within(lines, width, DROPPED)
    told = [f"Left out at this width: {', '.join(left_out)}. Wider, in a pipe and with --json they are there."]
    paragraphs = [*(told if left_out else []), caption(matrix, entries)]
    notes = [line for text in paragraphs for line in wrap(text, width, break_on_hyphens=False)]
    return "\n".join([title, *aligned(lines), *notes]) + "\n"


def plain(matrix: Matrix, entries: list[dict[str, Any]]) -> str:
    """The plan as aligned text, for a pipe."""
    return "\n".join([*aligned(headed(entries)), caption(matrix, entries)]) + "\n"


def caption(matrix: Matrix, entries: list[dict[str, Any]]) -> str:
    if matrix.budget_reading == "average":
        reading = "A budget is the average number of visual tokens per layer."
    else:
        reading = "A budget is the number of visual tokens that are kept after the last cut."
    sizes = sorted({entry["reference_tokens"] for entry in entries if entry["reference_tokens"]})
    if any("image" in entry for entry in entries):
        reading += " Each row is for the image that it names; for a task's images it has means over them."
    elif sizes:
        stated = " or ".join(map(str, sizes))
        reading += f" Images have their own numbers of tokens: shares hold for all, numbers for an image of {stated}."
    return (
        f"{reading} Batch size: {matrix.batch_size}. In quotes: the authors' name for a setting. FLOPs: all operations "
        f"of one prefill with {matrix.text_tokens} text tokens, without the vision tower and the LM head. Paper MACs: "
        "the papers' count, of visual tokens only, with one multiply-accumulate as 1. <=: the number depends on the "
        "sample. ~: tied scores may add to it."
    )
