"""The HTML page of an analysis, and its table of probes per layer as text."""

from __future__ import annotations

from pathlib import Path

from evals.analysis import figures
from evals.analysis.document import AnalysisDocument, LayerPart, SearchEntry, at, explained
from evals.report.embedded import rendered
from evals.report.provenance import facts
from evals.report.tables import Entry, Sheet
from evals.report.text import plain_table
from evals.report.units import MISSING
from hidrop.atomic_file import write_atomically
from hidrop.visible import visible_values

COLUMNS = {
    "visual": "intra_visual",
    "text": "intra_text",
    "cross-modal": "cross",
    "attention": "mass",
    "ILVAS": "ilvas",
    "right at exit": "exit_1",
    "same at exit": "exit_agreement_1",
    "right at injection": "inject",
}
NOTES = (
    ("visual, text", "intra-modal similarity: cosine between a token's states after this layer and the next, mean "
     "over the tokens of a prompt and over samples; the CSV file also has system tokens (text before the image)"),
    ("cross-modal", "cosine between the instruction's states after this layer with another image and with one fixed "
     "image; at 1 the image has no effect yet"),
    ("attention", "share of the last prompt token's attention in this layer that goes to visual tokens"),
    ("ILVAS", "cosine between the head-wise attention to a token in this layer and n layers later, mean over the "
     "tokens that this layer attends to most and over the windows n"),
    ("right at exit, same at exit", "share of samples with a right answer, and with the unreduced model's answer, if "
     "all visual tokens leave immediately before this layer"),
    ("right at injection", "share of samples with a right answer if all visual tokens enter immediately before this "
     "layer; the model was not trained for this, so the loss is an upper bound"),
    ("right", "right by the task's own rule, per sample; for MMBench each rotation is one sample"),
    ("bands", "95 % intervals by a bootstrap over images"),
)  # fmt: skip


def layers_table(document: AnalysisDocument) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and rows, one row per layer; the last column marks the suggested layers."""
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
    """The table of a search as aligned text."""
    rows = tuple(tuple(map(Entry, row)) for row in found["rows"])
    title = f"Without training, on {found['samples']} other samples of each task; *: on the Pareto front"
    return plain_table(Sheet(title, tuple(found["headers"]), (("", rows),), text_columns=1))


def write(document: AnalysisDocument, folder: Path) -> Path:
    """Write report.html into `folder`; return its path."""
    from evals.report import figure_style

    headers, rows = layers_table(document)
    path = folder / "report.html"
    document = visible_values(document)
    html = rendered(
        "analysis.html.jinja",
        document=document,
        explained=explained(document),
        headers=headers,
        rows=rows,
        figures=[
            (name, figures.TITLES[name], figure_style.svg(figure, name)) for name, figure in figures.drawn(document)
        ],
        notes=[*NOTES, ("Hardware", facts(document["hardware"]))],
    )
    write_atomically(path, html)
    return path
