"""Print the document on a terminal, with rich."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from evals.report.caption import caption
from evals.report.tables import Entry, Sheet
from evals.report.text import Kind, layout, plain_table, sheets_of
from evals.store.result_document import ResultDocument
from hidrop.visible import visible_values

STYLES: dict[Kind, str] = {"title": "bold", "header": "bold underline", "section": "italic cyan", "row": ""}


class Leaderboard:
    """A rich renderable: one wide table if the terminal is wide enough, else separate accuracy and cost tables.

    Lines have the layout of plain text, because rich's tables cannot span a section's title over columns. This class
    only adds color. Names are `Text`, so rich never parses them as markup.
    """

    def __init__(self, document: ResultDocument) -> None:
        self.document = visible_values(document)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        sheets = sheets_of(self.document)
        if any(width(sheet) > options.max_width for sheet in sheets):
            sheets = sheets_of(self.document, split=True)
        for sheet in sheets:
            for kind, fields in layout(sheet):
                line = Text("  ", style=STYLES[kind]).join(_field(entry) for entry in fields)
                line.stylize_before(STYLES[kind])
                yield line
            yield Text()
        for topic, text in caption(self.document):
            yield Text.assemble((f"{topic}: ", "bold"), f"{text}.")


def width(sheet: Sheet) -> int:
    """Terminal columns that the sheet needs without wrapping."""
    return max(len(line) for line in plain_table(sheet).splitlines())


def _field(entry: Entry) -> Text:
    return Text(entry.text, style="bold green" if entry.best else "red" if entry.text.strip() == "failed" else "")
