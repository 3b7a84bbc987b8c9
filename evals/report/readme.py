"""Generate the tables in README.md and docs/ from the committed results.

Each table is between `<!-- table: results/mini -->` and `<!-- end -->`. The first line can choose rows by shell
patterns of model/method, and columns by their headers:

    <!-- table: results/mini rows="*/vanilla,*/fastv*" columns="Method,GQA,% of vanilla" -->

`make readme` (evals.committed_results) writes them. A test fails if a table differs from the committed or staged
results. It ignores changes that a new run made in the results folder.
"""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase

from evals.report.tables import Entry, Sheet, main_sheets
from evals.report.text import markdown_table
from evals.store.folders import read_document
from hidrop.errors import UserError, did_you_mean

PAGES = ("README.md", "docs/results.md")
BLOCK = re.compile(r"(<!-- table: (\S+)((?: \w+=\"[^\"\n]*\")*) -->\n).*?(\n<!-- end -->)", re.DOTALL)

Line = tuple[Entry, ...]  # a row of a table


def rendered(text: str, where: str) -> str:
    """The text with the table of each block regenerated from its results.

    `where` is prepended to the folder: the repository's path, or ":" for its staged or committed files. Raises
    UserError for missing results, and for rows or columns that are not in them.
    """

    def table(match: re.Match[str]) -> str:
        chosen = dict(re.findall(r"(\w+)=\"(.*?)\"", match[3]))
        sheets = [selected(sheet, **chosen) for sheet in main_sheets(read_document(where + match[2]))]
        return match[1] + "\n\n".join(map(markdown_table, sheets)) + match[4]

    return BLOCK.sub(table, text)


def selected(sheet: Sheet, rows: str = "", columns: str = "") -> Sheet:
    """A table with the chosen columns, by header, and the chosen rows, in the order of their patterns.

    `rows` removes the sections and their marks for the best row. Raises UserError for a pattern or a header that
    matches nothing.
    """
    wanted = columns.split(",") if columns else list(sheet.headers)
    for header in wanted:
        if header not in sheet.headers:
            raise UserError(f"columns: no column '{header}'.{did_you_mean(header, sheet.headers)}")
    places = [sheet.headers.index(header) for header in wanted]
    sections = sheet.sections
    if rows:
        every = [row for _, found in sections for row in found]
        sections = (("", tuple(row for pattern in rows.split(",") for row in matching(every, pattern))),)
    return replace(
        sheet,
        headers=tuple(wanted),
        sections=tuple((title, tuple(tuple(row[i] for i in places) for row in found)) for title, found in sections),
        text_columns=sum(place < sheet.text_columns for place in places),
    )


def matching(rows: list[Line], pattern: str) -> list[Line]:
    """The rows whose model/method matches a shell pattern, without marks. Raises UserError if no row matches."""
    found = [row for row in rows if fnmatchcase(f"{row[0].text}/{row[1].text}", pattern)]
    if not found:
        raise UserError(f"rows: no row matches '{pattern}'")
    return [tuple(replace(entry, best=False) for entry in row) for row in found]
