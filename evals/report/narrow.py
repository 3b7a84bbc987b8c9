"""Results tables for a screen of limited width: columns are shortened and left out by importance, and named.

Nothing is wrapped or cut off. What is left out is in leaderboard.md and leaderboard.csv.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evals.report.columns import Column, columns_of
from evals.report.rows import tasks_of
from evals.report.sections import Board, boards
from evals.report.tables import Sheet, sheet_of
from evals.report.text import layout
from evals.store.result_document import ResultDocument

# What a table that is too wide loses, in this order. A column is named by its first CSV field; SCORES are all of them.
SCORES = "scores"
STEPS: tuple[tuple[str, bool], ...] = (  # (column, whether a shorter form of it stays)
    ("request_ms", False),
    ("prefill_speed_up", False),
    ("paper_macs", False),
    ("kv_bytes", False),
    ("prefill_ms_median", True),
    ("decode_ms_median", False),
    ("ttft_ms_median", False),
    ("share", True),
    ("flops", False),
    (SCORES, True),
    ("share", False),
    ("prefill_ms_median", False),
)
GAP = 2  # spaces between two columns


@dataclass(frozen=True)
class Narrowed:
    """Tables that fit, and what they leave out, in words."""

    sheets: tuple[Sheet, ...]
    left_out: tuple[str, ...]


def main_sheets_within(document: ResultDocument, width: int) -> Narrowed:
    """One table per architecture, in several blocks of columns where it is still too wide without the last of STEPS."""
    found, sheets, gone = boards(document), list[Sheet](), dict[str, None]()
    for board in found:
        title = board.title if len(found) > 1 else ""
        columns = [column for column in columns_of(board.rows, tasks_of(document)) if column.tabulated]
        sheet = sheet_of(title, board, columns)
        if sheet_width(sheet) > width:
            columns, said = merged_names(board, columns)
            gone |= dict.fromkeys(said)
            sheet, left_out = _fitted(title, board, columns, width)
            gone |= dict.fromkeys(left_out)
        sheets += blocks(sheet, width)
    return Narrowed(tuple(sheets), tuple(gone))


def _fitted(title: str, board: Board, columns: list[Column], width: int) -> tuple[Sheet, list[str]]:
    left_out: list[str] = []
    sheet = sheet_of(title, board, columns)
    for name, shorter in STEPS:
        if sheet_width(sheet) <= width:
            break
        own = [column for column in columns if _is(column, name)]
        said = list(dict.fromkeys(column.detail if shorter else column.header for column in own))
        if shorter:
            columns = [column.shortened() if column in own else column for column in columns]
        else:
            columns = [column for column in columns if column not in own]
            left_out = [word for word in left_out if word not in {column.detail for column in own}]
        narrower = sheet_of(title, board, columns)
        if sheet_width(narrower) < sheet_width(sheet):
            left_out += said
        sheet = narrower
    return sheet, left_out


def _is(column: Column, name: str) -> bool:
    if name == SCORES:
        return column.topic == "Scores" and column.short is not None
    return next(iter(column.fields)) == name


def merged_names(board: Board, columns: list[Column]) -> tuple[list[Column], list[str]]:
    """Model and method in one column: the model of most rows is left out, and others are in parentheses."""
    main = board.main_model
    model, method, *others = columns
    one = replace(
        method,
        show=lambda row: row.label if row.model == main else f"{row.label} ({row.model})",
        fields={**model.fields, **method.fields},
    )
    named = {row.model for row in board.rows} == {main}
    return [one, *others], [f"Model ({main}{'' if named else ', where no other is named'})"]


def blocks(sheet: Sheet, width: int) -> list[Sheet]:
    """The sheet in as many blocks of columns as fit into `width`, each with the text columns again.

    The title of the later ones says so. A block has at least one column of numbers.
    """
    if sheet_width(sheet) <= width:
        return [sheet]
    widths = [
        max(len(header), *(len(row[place].text) for _, rows in sheet.sections for row in rows))
        for place, header in enumerate(sheet.headers)
    ]
    names = list(range(sheet.text_columns))
    start = sum(widths[place] + GAP for place in names) - GAP
    found, used = [list[int]()], start
    for place in range(sheet.text_columns, len(widths)):
        if found[-1] and used + GAP + widths[place] > width:
            found.append([])
            used = start
        found[-1].append(place)
        used += GAP + widths[place]
    return [_part(sheet, [*names, *own], number) for number, own in enumerate(found)]


def _part(sheet: Sheet, places: Sequence[int], number: int) -> Sheet:
    picked: Callable[[Sequence], tuple] = lambda fields: tuple(fields[place] for place in places)  # noqa: E731
    sections = tuple((title, tuple(picked(row) for row in rows)) for title, rows in sheet.sections)
    title = f"{sheet.title} (continued)".strip() if number else sheet.title
    return replace(sheet, title=title, headers=picked(sheet.headers), sections=sections)


def without_model(sheet: Sheet) -> Sheet:
    """A table of rows by model and method as one by method alone, if its sections are the models."""
    if sheet.headers[:1] != ("Model",) or any(row[0].text != title for title, rows in sheet.sections for row in rows):
        return sheet
    sections = tuple((title, tuple(row[1:] for row in rows)) for title, rows in sheet.sections)
    return replace(sheet, headers=sheet.headers[1:], sections=sections, text_columns=sheet.text_columns - 1)


def sheet_width(sheet: Sheet) -> int:
    """Columns of a terminal that headers and rows need; titles are words, which may be wrapped."""
    lines = [fields for kind, fields in layout(sheet) if kind in ("header", "row")]
    return max(sum(len(entry.text) for entry in fields) + GAP * (len(fields) - 1) for fields in lines)
