"""The README's tables, made from the committed results.

Each table is between `<!-- table: results/mini -->` and `<!-- end -->`. `make readme` (evals.committed_results) writes
them, and a test fails when one differs from its results as they are committed or staged. A run of your own changes the
results in the folder; that is no failure.
"""

from __future__ import annotations

import re

from evals.report.tables import main_sheets
from evals.report.text import markdown_table
from evals.store.folders import read_document

BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def rendered(text: str, where: str) -> str:
    """The text with the tables of its blocks made again from their results. Raises UserError for missing results.

    `where` is put before a folder's name: the repository's path, or ":" for what is staged or committed in it.
    """

    def table(match: re.Match[str]) -> str:
        sheets = main_sheets(read_document(where + match[2]))
        return match[1] + "\n\n".join(map(markdown_table, sheets)) + match[3]

    return BLOCK.sub(table, text)
