"""Write again every committed file that follows from committed documents: `make readme`.

What was measured is in leaderboard.json, ablations.json and analysis.json. Tables, figures, pages and the tables in
README.md and docs/ follow from these. A page keeps its samples (see `evals.report.page.write`): their journals are not
committed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from evals.ablations import table
from evals.ablations.document import ABLATIONS
from evals.ablations.spec import load_study
from evals.analysis import document as analysis
from evals.analysis import figures as analysis_figures
from evals.analysis import page as analysis_page
from evals.bench import figures as bench_figures
from evals.bench.document import BENCH
from evals.report import figures, files, page, readme
from evals.report.figure_style import svg
from evals.report.files import json_text
from evals.store.folders import read_document
from evals.store.lock import locked
from hidrop.atomic_file import write_atomically
from hidrop.errors import UserError

ROOT = Path(__file__).parents[1]
# The bench whose figure README.md shows, and the figure.
SHOWN_BENCH, SHOWN_FIGURE = (
    "results/bench/bench-400m-float32-amd-epyc-2-threads-b1-t500-i1-20261127-221033.json",
    "docs/images/bench.svg",
)


def regenerate(root: Path, committed: Collection[str]) -> list[Path]:
    """Write the `committed` files (names below `root`) that follow from others of them; returns their paths.

    Raises UserError for a document that cannot be read.
    """
    written = []
    for name in sorted(committed):
        folder = (root / name).parent
        match Path(name).name:
            case "leaderboard.json":
                written += _tables(folder)
            case "ablations.json":
                written += _ablations(folder)
            case "analysis.json":
                written += _analysis(folder)
        if name == SHOWN_BENCH:
            written.append(_bench(root / name, root / SHOWN_FIGURE))
    pages = [root / name for name in readme.PAGES]
    for path in pages:
        write_atomically(path, readme.rendered(path.read_text(encoding="utf-8"), f"{root}/"))
    return written + pages


def _tables(folder: Path) -> list[Path]:
    """The tables of a matrix; figures and page only where they are committed, which is where they exist."""
    with locked(folder):
        document = read_document(folder)
        written = files.write(document, folder)
        if (folder / "figures").is_dir():
            written += figures.write(document, folder / "figures")
        if (folder / page.NAME).is_file():
            written.append(page.write(document, folder))
        return written


def _ablations(folder: Path) -> list[Path]:
    earlier = ABLATIONS.read(folder / "ablations.json")
    study, document = load_study(earlier["study"]), read_document(folder)
    return [*table.write(study, document, table.build(study, document, earlier["training_seconds"]), folder)]


def _analysis(folder: Path) -> list[Path]:
    document = analysis.ANALYSIS.read(folder / "analysis.json")
    with locked(folder):
        write_atomically(folder / "analysis.json", json_text(document) + "\n")
        write_atomically(folder / "curves.csv", analysis.csv_text(document))
        written = [folder / "analysis.json", folder / "curves.csv", analysis_page.write(document, folder)]
        return written + analysis_figures.write(document, folder / "figures")


def _bench(file: Path, figure: Path) -> Path:
    """The figure of whole requests."""
    found = bench_figures.drawn(BENCH.read(file))
    write_atomically(figure, next(svg(drawing, name) for name, drawing in found if name == "request"))
    return figure


def main() -> None:
    """Regenerate what git tracks below results/."""
    done = subprocess.run(["git", "ls-files", "results"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{ROOT}: git cannot list what is committed: {done.stderr.strip()}")
    try:
        for path in regenerate(ROOT, done.stdout.splitlines()):
            print(path.relative_to(ROOT))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
