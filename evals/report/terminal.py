"""Print the document on a terminal, with rich."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from textwrap import wrap

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from evals.report import headline
from evals.report.caption import caption
from evals.report.narrow import blocks, main_sheets_within, sheet_width, without_model
from evals.report.tables import Entry, Sheet
from evals.report.text import Kind, layout, other_sheets
from evals.store.result_document import ResultDocument
from hidrop.visible import visible_values

STYLES: dict[Kind, str] = {"title": "bold", "header": "bold underline", "section": "italic cyan", "row": ""}
# The notes that change how far the numbers can be trusted. The others are in leaderboard.md.
SHOWN = ("Unknown origin", "Older cells", "Warnings (!)", "Samples that failed", "Cells that failed")
INDENT = "  "


class Leaderboard:
    """A rich renderable, the most important at the end: differences, notes, results, who is best at each budget.

    Tables are as wide as the terminal at most: see narrow.py. Lines have the layout of plain text, because rich's
    tables cannot span a section's title over columns. This class only adds color. Names are `Text`, so rich never
    parses them as markup.
    """

    def __init__(self, document: ResultDocument) -> None:
        self.document = visible_values(document)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        for sheet in other_sheets(self.document):
            for block in blocks(sheet if sheet_width(sheet) <= width else without_model(sheet), width):
                yield from _table(block)
        results = main_sheets_within(self.document, width)
        notes = [(topic, text) for topic, text in caption(self.document) if topic in SHOWN]
        if results.left_out:
            notes.append(("Left out at this width", ", ".join(results.left_out)))
        notes.append(("How to read and reproduce the numbers, and all columns", "leaderboard.md"))
        for topic, text in notes:
            yield from _paragraph(topic, f"{text}.", width)
        yield Text()
        for sheet in results.sheets:
            yield from _table(sheet)
        for one in headline.headlines(self.document):
            yield from _paragraph(one.section.title, one.sentence(), width)


def _table(sheet: Sheet) -> Iterator[Text]:
    for kind, fields in layout(sheet):
        line = Text("  ", style=STYLES[kind]).join(_field(entry) for entry in fields)
        line.stylize_before(STYLES[kind])
        yield line
    yield Text()


def _paragraph(topic: str, text: str, width: int) -> Iterable[Text]:
    """ "topic: text" in lines of words, indented after the first one."""
    lines = wrap(f"{topic}: {text}", width, subsequent_indent=INDENT, break_on_hyphens=False) or [""]
    first = Text(lines[0])
    first.stylize("bold", 0, len(topic) + 1)
    return [first, *map(Text, lines[1:])]


def _field(entry: Entry) -> Text:
    return Text(entry.text, style="bold green" if entry.best else "red" if entry.text.strip() == "failed" else "")
