"""Results tables as markdown, CSV, LaTeX and JSON files, and on the terminal.

    write(document, Path("results/mini"))     # leaderboard.md, leaderboard.csv, leaderboard.tex, leaderboard.json
    show(document)                            # rich tables on a terminal, plain aligned text in a pipe

`document` is the result document that `evals.store.document.build` makes and `leaderboard.json` stores.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evals.store.result_document import ResultDocument

__all__ = ["plain", "render_table", "show", "write"]


def write(document: ResultDocument, out: Path) -> list[Path]:
    """Write leaderboard.md, .csv, .tex and .json into `out` and return their paths; see `evals.report.files.write`."""
    from evals.report.files import write as write_files

    return write_files(document, out)


def render_table(document: ResultDocument) -> RenderableType:
    """The document as a rich renderable: tables that fit the console's width, then the caption."""
    from evals.report.terminal import Leaderboard

    return Leaderboard(document)


def plain(document: ResultDocument) -> str:
    """The document as aligned plain text of any width, for a pipe or a log."""
    from evals.report.text import plain_text

    return plain_text(document)


def show(document: ResultDocument, file: TextIO | None = None) -> None:
    """Print the document to `file` (default: standard output): rich tables on a terminal, plain text elsewhere."""
    from rich.console import Console

    console = Console(file=file)
    if console.is_terminal:
        console.print(render_table(document))
    else:
        console.file.write(plain(document))
