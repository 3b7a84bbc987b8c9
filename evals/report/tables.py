"""Tables as plain data, shared by all output formats."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evals.report.columns import Column, columns_of, with_p95
from evals.report.rows import TableRow, tasks_of
from evals.report.sections import Board, Section, boards
from evals.report.units import MISSING, fixed, millis
from evals.store.result_document import ProfileEntry, ResultDocument


@dataclass(frozen=True)
class Entry:
    """One field of a table. `best`, `second`: ranks in its section; `significant`: differs from vanilla."""

    text: str
    best: bool = False
    second: bool = False
    significant: bool = False


@dataclass(frozen=True)
class Sheet:
    """A titled table of (title, rows) sections. The first `text_columns` columns are text, the others numbers."""

    title: str
    headers: tuple[str, ...]
    sections: tuple[tuple[str, tuple[tuple[Entry, ...], ...]], ...]
    text_columns: int = 2


def main_sheets(document: ResultDocument, *, split: bool = False) -> list[Sheet]:
    """One table per architecture; with `split`, one for accuracy and one for cost, for narrow screens."""
    sheets, found = [], boards(document)
    for board in found:
        columns = [column for column in columns_of(board.rows, tasks_of(document)) if column.tabulated]
        title = board.title if len(found) > 1 else ""
        if split:
            for part, name in (("accuracy", "Accuracy"), ("cost", "Cost")):
                own = [column for column in columns if column.part in ("name", part)]
                sheets.append(sheet_of(_titled(title, name), board, own))
        else:
            sheets.append(sheet_of(title, board, columns))
    return sheets


def batch_sheet(document: ResultDocument) -> Sheet | None:
    """Timings by batch size; None for a single batch size, which the main table shows."""
    batches = sorted({profile["batch"] for profile in document["profiles"]})
    if len(batches) < 2:
        return None
    sections = []
    for batch in batches:
        own = [p for p in document["profiles"] if p["batch"] == batch]
        sections.append((f"Batch {batch}", tuple(tuple(Entry(text) for text in _timing_line(p)) for p in own)))
    headers = ("Model", "Method", "Prefill ms", "Decode ms", "TTFT ms", "Tokens/s", "Peak MiB")
    return Sheet("Time by batch size", headers, tuple(sections))


def sheet_of(title: str, board: Board, columns: Sequence[Column]) -> Sheet:
    """A table of these columns; those that name the row come first."""
    sections = tuple((section.title, _lines(section, columns)) for section in board.sections)
    names = sum(column.part == "name" for column in columns)
    return Sheet(title, tuple(column.header for column in columns), sections, text_columns=names)


def _lines(section: Section, columns: Sequence[Column]) -> tuple[tuple[Entry, ...], ...]:
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


def _top(column: Column, rows: Iterable[TableRow]) -> list[float]:
    """The two best numbers of a column. Empty if all numbers are equal."""
    known = {rank for row in rows if (rank := _rank(column, row)) is not None}
    return sorted(known, reverse=True)[:2] if len(known) > 1 else []


def _rank(column: Column, row: TableRow) -> float | None:
    """The number that ranks a row in a column; None if the column is not ranked."""
    return None if column.best is None else column.best(row)


def _timing_line(profile: ProfileEntry) -> list[str]:
    decode = profile["decode_ms"]["median"]
    return [
        profile["model"],
        profile["label"],
        with_p95(profile["prefill_ms"]["median"], profile["prefill_ms"]["p95"]),
        millis(decode),
        millis(profile["ttft_ms"]["median"]),
        fixed(1000 * profile["batch"] / decode) if decode else MISSING,
        fixed(profile["peak_bytes"] / 1024**2, 0),
    ]


def _titled(*parts: str) -> str:
    return ": ".join(part for part in parts if part)
