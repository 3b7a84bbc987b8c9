"""Sheets as markdown and as aligned plain text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from evals.report import headline
from evals.report.caption import caption
from evals.report.differences import difference_sheet, flip_sheet
from evals.report.published import published_sheet
from evals.report.reproduced import TITLE, reading, reproduced_sheet
from evals.report.tables import Entry, Sheet, batch_sheet, main_sheets
from evals.store.result_document import ResultDocument
from hidrop.visible import visible_values

Kind = Literal["title", "header", "section", "row"]


def other_sheets(document: ResultDocument) -> list[Sheet]:
    """The tables next to the results: differences, flips, timings by batch size, published numbers."""
    found = difference_sheet(document), flip_sheet(document), batch_sheet(document), published_sheet(document)
    return [sheet for sheet in found if sheet]


def report_sheets(document: ResultDocument) -> list[Sheet]:
    """The tables of files: the results, those next to them, and the comparison with papers, too wide for a terminal."""
    compared = reproduced_sheet(document)
    return [*main_sheets(document), *other_sheets(document), *([compared] if compared else [])]


def report_notes(document: ResultDocument) -> list[tuple[str, str]]:
    """The caption of files: (topic, sentence) pairs."""
    words = reading(document)
    return [*caption(document), *([(TITLE, words)] if words else [])]


def markdown(document: ResultDocument) -> str:
    """The document as GitHub markdown. Its tables can be pasted into a README."""
    document = visible_values(document)
    blocks = [f"# Results: {escape(document['matrix'])}"]
    if best := headline.headlines(document):
        blocks.append("\n".join(f"- **{escape(one.section.title)}**: {escape(one.sentence())}" for one in best))
    for sheet in report_sheets(document):
        blocks.append(markdown_table(sheet) if not sheet.title else f"## {sheet.title}\n\n{markdown_table(sheet)}")
    blocks.append("\n".join(f"- **{topic}**: {escape(text)}." for topic, text in report_notes(document)))
    return "\n\n".join(blocks) + "\n"


def markdown_table(sheet: Sheet) -> str:
    """One sheet as a markdown table. Each section title is a separate row."""
    width = len(sheet.headers)
    lines = [_line(escape(header) for header in sheet.headers)]
    lines.append(_line(":---" if i < sheet.text_columns else "---:" for i in range(width)))
    for title, rows in sheet.sections:
        if title:
            lines.append(_line([f"***{escape(title)}***", *[""] * (width - 1)]))
        lines += [_line(_marked(entry) for entry in row) for row in rows]
    return "\n".join(lines)


def plain_text(document: ResultDocument) -> str:
    """The document as aligned text without markup: notes first, then the results, and who is best at each budget."""
    document = visible_values(document)
    blocks = [f"Results: {document['matrix']}"]
    blocks += [plain_table(sheet) for sheet in other_sheets(document)]
    blocks.append("\n".join(f"{topic}: {text}." for topic, text in caption(document)))
    blocks += [plain_table(sheet) for sheet in main_sheets(document)]
    blocks += [headline.lines(document)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def plain_table(sheet: Sheet) -> str:
    """One sheet as aligned text of any width, with two spaces between columns."""
    return "\n".join("  ".join(entry.text for entry in fields).rstrip() for _, fields in layout(sheet))


def layout(sheet: Sheet) -> Iterator[tuple[Kind, tuple[Entry, ...]]]:
    """(kind, fields) for each line of a sheet. Fields of headers and rows are padded to the column width."""
    headers = tuple(Entry(header) for header in sheet.headers)
    rows = [headers, *(row for _, section in sheet.sections for row in section)]
    widths = [max(len(row[i].text) for row in rows) for i in range(len(headers))]

    def padded(row: tuple[Entry, ...]) -> tuple[Entry, ...]:
        return tuple(
            replace(entry, text=entry.text.ljust(width) if i < sheet.text_columns else entry.text.rjust(width))
            for i, (entry, width) in enumerate(zip(row, widths, strict=True))
        )

    if sheet.title:
        yield "title", (Entry(sheet.title),)
    yield "header", padded(headers)
    for title, section in sheet.sections:
        if title:
            yield "section", (Entry(f"-- {title}"),)
        for row in section:
            yield "row", padded(row)


def escape(text: str) -> str:
    """Text escaped for a markdown table: it adds no columns, lines, emphasis or HTML."""
    for mark in ("\\", "|", "*", "_", "<", "`", "["):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _marked(entry: Entry) -> str:
    text = escape(entry.text)
    return f"**{text}**" if entry.best and text else text


def _line(fields: Any) -> str:
    return f"| {' | '.join(fields)} |".replace("|  |", "| |").replace("|  |", "| |")
