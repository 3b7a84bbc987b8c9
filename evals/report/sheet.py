"""Tables as plain data, the same for every output format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evals.report.rows import Row, Score, number, tasks_of
from evals.report.sections import Board, Section, boards
from evals.report.units import BYTES, COUNTS, MISSING, fixed, millis, unit_for
from evals.tasks.registry import TASKS, get_task

# Behind a score whose answers look wrong as a whole; the caption says why.
WARNED = " (!)"


@dataclass(frozen=True)
class Entry:
    """One field of a table. `best` and `second` are ranks in its section; `significant`: not vanilla's by chance."""

    text: str
    best: bool = False
    second: bool = False
    significant: bool = False


@dataclass(frozen=True)
class Sheet:
    """A titled table; `text_columns` of its columns, from the left, hold text and the others numbers."""

    title: str
    headers: tuple[str, ...]
    sections: tuple[tuple[str, tuple[tuple[Entry, ...], ...]], ...]
    text_columns: int = 2


@dataclass(frozen=True)
class Column:
    """A header, and what it shows of a row. `best` columns mark the largest number of each section."""

    header: str
    show: Callable[[Row], str]
    best: Callable[[Row], float | None] | None = None
    significant: Callable[[Row], bool] | None = None


def task_name(task: str) -> str:
    """A task as tables name it; an unknown one keeps its name."""
    return get_task(task).title if task in TASKS else task


def main_sheets(document: Mapping[str, Any], *, split: bool = False) -> list[Sheet]:
    """One table per architecture with everything; with `split`, accuracy and cost apart, for narrow screens."""
    sheets, found = [], boards(document)
    for board in found:
        naming, scores, costs = _naming(short=split), _scores(tasks_of(document)), _costs(board)
        title = board.title if len(found) > 1 else ""
        if split:
            sheets.append(_sheet(_titled(title, "Accuracy"), board, naming + scores))
            sheets.append(_sheet(_titled(title, "Cost"), board, naming[:2] + costs))
        else:
            sheets.append(_sheet(title, board, naming + scores + costs))
    return sheets


def batch_sheet(document: Mapping[str, Any]) -> Sheet | None:
    """Timings by batch size; None when there is only one batch size (the main table has it)."""
    batches = sorted({profile["batch"] for profile in document.get("profiles", ())})
    if len(batches) < 2:
        return None
    sections = []
    for batch in batches:
        own = [p for p in document["profiles"] if p["batch"] == batch]
        sections.append((f"Batch {batch}", tuple(tuple(Entry(text) for text in _timing_line(p)) for p in own)))
    headers = ("Model", "Method", "Prefill ms", "Decode ms", "TTFT ms", "Tokens/s", "Peak MiB")
    return Sheet("Time by batch size", headers, tuple(sections))


def score_text(score: Score) -> str:
    """A task's score with one decimal, "failed", or "-" where it was not run."""
    return score if isinstance(score, str) else fixed(score)


def row_score(row: Row, task: str) -> str:
    """A row's score in a task; of several seeds the mean, with half of their range."""
    spread = row.spread.get(task)
    warned = WARNED if row.warnings.get(task) else ""
    return score_text(row.scores.get(task)) + ("" if spread is None else f" ± {fixed(spread)}") + warned


def with_p95(median: float | None, p95: float | None) -> str:
    """A timing as "median (p95)"."""
    return MISSING if median is None else f"{millis(median)} ({millis(p95)})"


def _sheet(title: str, board: Board, columns: list[Column]) -> Sheet:
    sections = tuple((section.title, _lines(section, columns)) for section in board.sections)
    return Sheet(title, tuple(column.header for column in columns), sections)


def _lines(section: Section, columns: list[Column]) -> tuple[tuple[Entry, ...], ...]:
    tops = [_top(column, section.rows) for column in columns]
    return tuple(
        tuple(
            Entry(
                column.show(row),
                best=_rank(column, row) in top[:1],
                second=_rank(column, row) in top[1:],
                significant=column.significant is not None and column.significant(row),
            )
            for column, top in zip(columns, tops, strict=True)
        )
        for row in section.rows
    )


def _top(column: Column, rows: Iterable[Row]) -> list[str]:
    """The two best numbers of a column, rounded as shown: equal as shown is equal. None where no number stands out."""
    known = {rank for row in rows if (rank := _rank(column, row)) is not None}
    return sorted(known, key=float, reverse=True)[:2] if len(known) > 1 else []


def _rank(column: Column, row: Row) -> str | None:
    """What a row is compared by in a column: its number, rounded, without a spread."""
    value = None if column.best is None else column.best(row)
    return None if value is None else fixed(value)


def _naming(*, short: bool) -> list[Column]:
    return [
        Column("Model", lambda row: row.model),
        Column("Method", lambda row: row.label),
        Column("Tokens", (lambda row: fixed(row.average_tokens)) if short else _tokens),
    ]


def _tokens(row: Row) -> str:
    if row.average_tokens is None:
        return MISSING
    share = "" if row.share is None else f" ({100 * row.share:.1f} %)"
    return f"{row.average_tokens:.1f}{share}"


def _scores(tasks: list[str]) -> list[Column]:
    def column(task: str) -> Column:
        return Column(
            task_name(task),
            lambda row: row_score(row, task),
            lambda row: number(row.scores.get(task)),
            lambda row: row.significant(task),
        )

    mean = Column("% of vanilla", lambda row: fixed(row.percent_of_vanilla), lambda row: row.percent_of_vanilla)
    return [column(task) for task in tasks] + ([mean] if tasks else [])


def _costs(board: Board) -> list[Column]:
    flops = unit_for((row.flops for row in board.rows), COUNTS)
    macs = unit_for((row.paper_macs for row in board.rows), COUNTS)
    cache = unit_for((row.kv_bytes for row in board.rows), BYTES)
    columns = [
        Column(f"{flops.prefix}FLOP", lambda row: flops.show(row.flops)),
        Column(f"Paper {macs.prefix}MAC", lambda row: macs.show(row.paper_macs)),
        Column(f"KV {cache.prefix}B", lambda row: cache.show(row.kv_bytes)),
    ]
    if any(row.profile or row.timing_failed for row in board.rows):
        columns += [
            Column("Prefill ms", _timed(lambda row: with_p95(row.millis("prefill"), row.millis("prefill", "p95")))),
            Column("Decode ms", _timed(lambda row: millis(row.millis("decode")))),
            Column("TTFT ms", _timed(lambda row: millis(row.millis("ttft")))),
        ]
    return columns


def _timed(show: Callable[[Row], str]) -> Callable[[Row], str]:
    return lambda row: "failed" if row.timing_failed and not row.profile else show(row)


def _timing_line(profile: Mapping[str, Any]) -> list[str]:
    def take(what: str, statistic: str) -> float | None:
        return number((profile.get(f"{what}_ms") or {}).get(statistic))

    decode, peak = take("decode", "median"), number(profile.get("peak_bytes"))
    return [
        str(profile["model"]),
        str(profile.get("label", profile.get("method"))),
        with_p95(take("prefill", "median"), take("prefill", "p95")),
        millis(decode),
        millis(take("ttft", "median")),
        fixed(1000 * profile["batch"] / decode) if decode else MISSING,
        fixed(None if peak is None else peak / 1024**2, 0),
    ]


def _titled(*parts: str) -> str:
    return ": ".join(part for part in parts if part)
