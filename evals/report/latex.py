"""LaTeX tables (booktabs) for a paper. Accuracy and cost are separate tables; best is bold, second underlined."""

from __future__ import annotations

from collections.abc import Mapping

from evals.report.caption import caption
from evals.report.tables import Entry, Sheet, main_sheets
from evals.store.result_document import ResultDocument
from hidrop.visible import visible_values

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def latex(document: ResultDocument) -> str:
    """All main tables, for \\input in a paper that loads the package booktabs."""
    document = visible_values(document)
    notes = dict(caption(document))
    head = [f"% hidrop: {document['matrix']}, {document['date']}", "% needs \\usepackage{booktabs}"]
    head += [f"% {topic}: {notes[topic]}" for topic in notes]
    sheets = main_sheets(document, split=True)
    name = "".join(c if c.isalnum() else "-" for c in document["matrix"])
    tables = [table(sheet, f"tab:{name}-{number}", notes) for number, sheet in enumerate(sheets, start=1)]
    return "\n\n".join(["\n".join(line.replace("\n", " ") for line in head), *tables]) + "\n"


def table(sheet: Sheet, label: str, notes: Mapping[str, str]) -> str:
    """One sheet as a LaTeX table."""
    width = len(sheet.headers)
    columns = "l" * sheet.text_columns + "r" * (width - sheet.text_columns)
    lines = [r"\begin{table}[t]", r"\centering", r"\small", rf"\caption{{{escape(_caption(sheet, notes))}}}"]
    lines += [rf"\label{{{label}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines.append(" & ".join(escape(header) for header in sheet.headers) + r" \\")
    for title, rows in sheet.sections:
        lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\textit{{{escape(title)}}}}} \\"]
        lines += [" & ".join(map(_field, row)) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"])


def escape(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(SPECIAL.get(character, character) for character in text)


def _field(entry: Entry) -> str:
    text = escape(entry.text)
    if entry.best:
        text = rf"\textbf{{{text}}}"
    elif entry.second:
        text = rf"\underline{{{text}}}"
    return text + ("$^{*}$" if entry.significant else "")


def _caption(sheet: Sheet, notes: Mapping[str, str]) -> str:
    marks = ""
    if any(entry.significant for _, rows in sheet.sections for row in rows for entry in row):
        marks = "*: differs from vanilla by more than chance (exact McNemar test with Holm's correction). "
    protocol = f"Protocol: {notes['Protocol']}. " if "Protocol" in notes else ""
    ranks = "The best of each section is bold, the second best underlined. "
    return f"{sheet.title or 'Results'}. {protocol}{ranks if 'Accuracy' in sheet.title else ''}{marks}".strip()
