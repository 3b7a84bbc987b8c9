"""The tables in README.md and the files that it shows, from the committed results: `make readme` makes them anew.

Each stands between `<!-- table: results/mini -->` and `<!-- end -->`. A test fails when one differs from its results,
both as they are committed or staged: a run of one's own changes the results, and nothing is wrong with that.
"""

from __future__ import annotations

import re
from pathlib import Path

from evals.report.sheet import main_sheets
from evals.report.text import markdown_table
from evals.store.folders import read_document

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n).*?(\n<!-- end -->)", re.DOTALL)


def rendered(text: str, where: str = f"{ROOT}/") -> str:
    """The text with the tables of its blocks as their results give them. Raises UserError for lost results.

    `where` stands before a folder's name: the repository, or ":" for what is staged or committed in it.
    """

    def table(match: re.Match[str]) -> str:
        sheets = main_sheets(read_document(where + match[2]))
        return match[1] + "\n\n".join(map(markdown_table, sheets)) + match[3]

    return BLOCK.sub(table, text)


def main() -> None:
    """Write the tables of the README, and tables and figures of the results that they are of."""
    from evals.report import figures, files

    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        document, folder = read_document(ROOT / match[2]), ROOT / match[2]
        files.write(document, folder)
        figures.write(document, folder / "figures")
    path.write_text(rendered(text), encoding="utf-8")


if __name__ == "__main__":
    main()
