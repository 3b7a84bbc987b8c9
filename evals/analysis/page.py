"""One HTML page for an analysis, and its table in text: layer by layer what the probes say."""

from __future__ import annotations

from pathlib import Path

from evals.analysis import figures
from evals.analysis.document import AnalysisDocument, LayerPart, SearchEntry, at, explained
from evals.report.caption import facts
from evals.report.page import ASSETS
from evals.report.tables import Entry, Sheet
from evals.report.text import plain_table
from evals.report.units import MISSING
from evals.store.journal import write_atomically

COLUMNS = {
    "visual": "intra_visual",
    "text": "intra_text",
    "cross-modal": "cross",
    "attention": "mass",
    "ILVAS": "ilvas",
    "right if left": "exit_1",
    "same answer": "exit_agreement_1",
    "right if entered": "inject",
}
NOTES = (
    ("visual, text", "intra-modal similarity: cosine of a token's states behind this layer and the next, mean over the "
     "tokens of a prompt and over samples; system tokens (text before the image) are in the CSV"),
    ("cross-modal", "cosine of the instruction's states behind this layer with another image and with one fixed image; "
     "at 1 the image does not matter yet"),
    ("attention", "share of the last prompt token's attention in this layer that visual tokens get"),
    ("ILVAS", "cosine between the head-wise attention that a token gets in this layer and n layers later, over the "
     "tokens that this layer attends to most, mean over the windows n"),
    ("right if left, same answer", "share of samples that are right, and that are answered as by the unreduced model, "
     "when all visual tokens leave right before this layer"),
    ("right if entered", "the same when they enter right before this layer, which the model was not trained for: an "
     "upper bound of the harm"),
    ("Right", "means the task's own rule on each sample; for MMBench each rotation counts by itself"),
    ("Bands", "are 95 % intervals by a bootstrap over images"),
)  # fmt: skip


def layers_table(document: AnalysisDocument) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows: a row for each layer, what was read off marked behind its number."""
    shown = {title: name for title, name in COLUMNS.items() if name in document["curves"]}
    marks: dict[int, list[str]] = {}
    parts: dict[LayerPart, str] = {"inject": "inject", "filters": "filter", "exit": "exit"}
    for name, mark in parts.items():
        for layer in document["suggestion"][name]["layers"]:
            marks.setdefault(layer, []).append(mark)
    rows = []
    for layer in range(1, document["layers"] + 1):
        values = (at(document, name, layer) for name in shown.values())
        fields = (MISSING if value is None else f"{value:.3f}" for value in values)
        rows.append((str(layer), *fields, ", ".join(marks.get(layer, []))))
    return ("layer", *shown, "suggested"), rows


def text(document: AnalysisDocument) -> str:
    """The table as aligned text."""
    headers, rows = layers_table(document)
    return plain_table(Sheet("", headers, (("", tuple(tuple(map(Entry, row)) for row in rows)),), text_columns=0))


def searched(found: SearchEntry) -> str:
    """What a search found, as aligned text."""
    rows = tuple(tuple(map(Entry, row)) for row in found["rows"])
    title = f"without training, on {found['samples']} other samples of each task; *: on the Pareto front"
    return plain_table(Sheet(title, tuple(found["headers"]), (("", rows),), text_columns=1))


def write(document: AnalysisDocument, folder: Path) -> Path:
    """report.html in `folder`."""
    from jinja2 import Environment, FileSystemLoader

    from evals.report import figure_style

    environment = Environment(loader=FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    headers, rows = layers_table(document)
    path = folder / "report.html"
    html = environment.get_template("analysis.html.jinja").render(
        document=document,
        explained=explained(document),
        headers=headers,
        rows=rows,
        figures=[(name, figures.TITLES[name], figure_style.svg(figure)) for name, figure in figures.drawn(document)],
        notes=[*NOTES, ("Hardware", facts(document["hardware"]))],
        style=(ASSETS / "page.css").read_text(encoding="utf-8"),
    )
    write_atomically(path, html)
    return path
