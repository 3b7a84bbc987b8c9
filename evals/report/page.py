"""One self-contained HTML page: tables that sort and filter, figures, and samples with the tokens that were kept.

Styles, script, figures, data and images are embedded, so the page opens without a server and without a network. Tables
and figures also work without JavaScript.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from evals.report import flip_lists, headline, several
from evals.report.columns import task_name
from evals.report.embedded import rendered, themed
from evals.report.files import finite
from evals.report.measured_speed import MeasuredSpeed
from evals.report.method_looks import looks_of, own_look, shown_name, symbol
from evals.report.page_data import KINDS, pack, unpack
from evals.report.page_samples import PageSamples, convert_older, kinds_of, page_samples
from evals.report.rows import ALPHA, rows_of, tasks_of
from evals.report.sections import boards
from evals.report.seeds import together
from evals.report.tables import main_sheets
from evals.report.text import report_notes, report_sheets
from evals.store import sample_table
from evals.store.json_files import MOST_DEPTH
from evals.store.result_document import ResultDocument, cell_key, protocol_of
from evals.tasks.base import Task
from evals.tasks.registry import get_task, known, known_tasks
from hidrop import strict_json
from hidrop.atomic_file import make_folder, write_atomically
from hidrop.errors import UserError
from hidrop.method_facts import summary
from hidrop.methods import METHODS
from hidrop.regular_files import Unreadable, read_text
from hidrop.visible import visible, visible_values

NAME = "report.html"
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
SAMPLES_SECTION = 'id="samples"'
# One script element, in this order.
SCRIPTS = ("page.js", "page_tables.js", "page_figures.js", "page_details.js", "page_samples.js")
SAMPLES = 48
# Of all images, all answers and all lists of flips. They keep a page of 12 benchmarks with 40 rows each below 10 MB.
IMAGE_BYTES, ANSWER_BYTES, LIST_BYTES = 2_500_000, 4_500_000, 1_200_000
MOST_COLUMNS = 4  # panels of a line
# The fields of a document that say what made its numbers.
MADE = ("matrix", "protocol", "command", "date", "commit", "hardware", "versions", "sources", "data")
FIGURES = {
    "accuracy": "Accuracy in % of vanilla, against cost",
    "tokens": "Visual tokens entering each layer",
    "speed": "Measured prefill speed-up, against the ratio of operations",
    "retention": "Accuracy in % of vanilla, for each task",
}


def write(
    document: ResultDocument,
    folder: Path,
    *,
    samples: int = SAMPLES,
    out: Path | None = None,
    speed: MeasuredSpeed | None = None,
) -> Path:
    """Write report.html into `out` (default: `folder`), with up to `samples` samples of each task from its journals.

    `speed`: files of bench, in a section of their own. If the journals are missing (they are not committed), the page
    keeps the samples of the existing report.html. Raises UserError for a damaged journal, and if the existing page
    shows something that is not there any more; samples 0 drops it.
    """
    path = (out or folder) / NAME
    text = html(document, folder, samples=samples, out=out, speed=speed)
    before = _before(path)
    if samples and (lost := lost_samples(before, text, document)):
        raise UserError(
            f"{path}: it shows {lost}, which {folder} does not have any more. Bring back its samples/ and its data, "
            "choose another folder with --out, or drop them with --samples 0"
        )
    write_atomically(path, text)
    return path


def html(
    document: ResultDocument,
    folder: Path,
    *,
    samples: int = SAMPLES,
    out: Path | None = None,
    speed: MeasuredSpeed | None = None,
) -> str:
    """The HTML that `write` writes. The same folder gives the same text."""
    document = visible_values(finite(document))
    found = page_samples(document, folder, samples=samples, room=IMAGE_BYTES, answers_room=ANSWER_BYTES)
    if not found.tasks and samples:
        earlier = (shown_before(document, place / NAME) for place in (out or folder, folder))
        found = next(filter(None, earlier), found)
    found.flips |= _table_flips(document, folder, found.flips)
    return _rendered(document, found, report_notes(document), {name: document.get(name) for name in MADE}, speed)


def check_title(path: Path, title: str) -> None:
    """Raises UserError if `path` is the page of something else: that page keeps samples."""
    from markupsafe import escape

    before = _before(path)
    if before and f"<title>{escape(visible(title))}: hidrop</title>" not in before:
        raise UserError(f"{path}: it is the page of another run. Choose another folder with --out")


def _before(path: Path) -> str:
    """The page that is there; an empty text without one."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def write_several(
    runs: Sequence[several.Run], out: Path, *, samples: int = SAMPLES, speed: MeasuredSpeed | None = None
) -> Path:
    """Write report.html of several runs into `out`; their samples come from their journals. `speed`: as in `write`.

    Raises UserError for a damaged journal, and if `out` has the page of something else.
    """
    path, document = out / NAME, several.merged(runs)
    check_title(path, document["matrix"])
    make_folder(out)
    document = visible_values(finite(document))
    places = several.places_of(runs)
    found = page_samples(document, out, samples=samples, room=IMAGE_BYTES, answers_room=ANSWER_BYTES, places=places)
    without = [run.name for run in runs if not any(places[key][0] == run.folder for key in found.identities)]
    for run in runs:
        cells = [cell for cell in run.document["cells"] if run.key(cell_key(cell)) in places]
        listed = {cell_key(cell): found.flips.get(run.key(cell_key(cell)), "") for cell in cells}
        lists = _table_flips({**run.document, "cells": cells}, run.folder, listed)
        found.flips |= {run.key(key): own for key, own in lists.items()}
    found.notes = [note for note in found.notes if not note.startswith("no samples")]
    found.notes += [f"samples of {name}: its samples/ is missing" for name in without if samples]
    made = several.facts(runs, MADE)
    write_atomically(path, _rendered(document, found, several.captions(runs), visible_values(finite(made)), speed))
    return path


def _table_flips(document: ResultDocument, folder: Path, found: flip_lists.Lists) -> flip_lists.Lists:
    """The lists of flips by the folder's samples.parquet, where `found` lacks some. It is kept without journals."""
    complete = all(isinstance(found.get(cell_key(cell)), list) for cell in document["cells"])
    if complete or not (table := sample_table.read(str(folder))):
        return {}
    own = {cell_key(cell): cell for cell in document["cells"] if known(cell["task"])}
    rows = {key: table.of(cell, protocol_of(document, cell["task"])) or () for key, cell in own.items()}
    kinds = {
        key: kinds_of(rows[key], rows.get(str(cell["base"]), ()), lower=cell.get("lower_is_better", False))
        for key, cell in own.items()
        if rows[key]
    }
    return flip_lists.lists_of(kinds)


def _rendered(
    document: ResultDocument,
    found: PageSamples,
    notes: Sequence[tuple[str, str]],
    made: Mapping[str, Any],
    speed: MeasuredSpeed | None,
) -> str:
    """The page's text. notes: (topic, sentence) pairs on how to read it. made: what made the numbers."""
    mains = main_sheets(document)
    found.tasks = {task: samples for task, samples in found.tasks.items() if samples}
    found.flips = flip_lists.within(found.flips, LIST_BYTES)
    return rendered(
        "page.html.jinja",
        scripts=SCRIPTS,
        document=document,
        headlines=headline.headlines(document),
        doubts=list(headline.doubts(document)),
        sheets=report_sheets(document),
        mains=len(mains),
        sections=list(dict.fromkeys(title for sheet in mains for title, _ in sheet.sections)),
        keys=_keys(document),
        places=_places(document),
        methods=_methods_of_rows(document),
        figures=_figures(document),
        symbols=_symbols(document),
        speed=speed,
        notes=[*notes, *(("Not shown", visible(note)) for note in found.notes)],
        data=_script_safe(visible_values({**_facts(document, made), **asdict(found), **pack(found.tasks)})),
        tasks={task: task_name(task) for task in found.tasks},
        kinds=KINDS,
    )


def shown_before(document: ResultDocument, path: Path) -> PageSamples | None:
    """The samples of an existing page of the same cells; None if there is no such page."""
    try:
        data = _data_in(read_text(path))
        data["tasks"] = unpack(data)
        data.setdefault("flips", dict.fromkeys(data["identities"], flip_lists.OLDER))
        ids = {cell_key(cell): cell["id"] for cell in document["cells"]}
        if not data["tasks"] or any(ids[key] != identity["id"] for key, identity in data["identities"].items()):
            return None
        convert_older(data["tasks"], document)
        return PageSamples(**{field.name: data[field.name] for field in fields(PageSamples)})
    # Without a page, or with one that another version wrote.
    except (Unreadable, ValueError, LookupError, TypeError, AttributeError):
        return None


def lost_samples(before: str, after: str, document: ResultDocument) -> str | None:
    """What a page shows of the document's samples and the next one does not, in words. None if nothing gets lost."""
    keys, tasks = {cell_key(cell) for cell in document["cells"]}, set(tasks_of(document))
    new = _data_in(after)
    try:
        old = _data_in(before)
        lost = [key for key in old["identities"] if key in keys and key not in new["identities"]]
        if lost:
            return f"samples of {len(lost)} cells ({', '.join(lost[:3])}{' ...' if len(lost) > 3 else ''})"
        asked = sorted(tasks & (_with_questions(old) - _with_questions(new)))
        return f"questions and images of {', '.join(asked)}" if asked else None
    except (ValueError, LookupError, TypeError, AttributeError):  # no page of this version
        return "samples that another version wrote" if SAMPLES_SECTION in before and not new["tasks"] else None


def _with_questions(data: Any) -> set[str]:
    return {task for task, samples in unpack(data).items() if any(sample["question"] for sample in samples)}


def _data_in(page: str) -> Any:
    """The data of a page. Raises ValueError if there is none."""
    if not (found := DATA.search(page)):
        raise ValueError("not a page of a report")
    strict_json.check_depth(found[1], MOST_DEPTH)
    return strict_json.value(found[1])


def _keys(document: ResultDocument) -> dict[tuple[str, str, str], list[str]]:
    """The cell keys of each score, by model, label and header: of a row of several seeds theirs, and of each seed."""
    cells = {cell_key(cell) for cell in document["cells"]}
    labels: dict[tuple[str, str], list[str]] = {}
    for row in rows_of(document):
        labels.setdefault((row.model, row.group), []).append(row.label)
    for row in rows_of(document):
        labels.setdefault((row.model, row.label), [row.label])
    found = {}
    for (model, shown), own in labels.items():
        for task in tasks_of(document):
            keys = [f"{model}/{label}/{task}" for label in own]
            found[model, shown, task_name(task)] = [key for key in keys if key in cells]
    return found


def _places(document: ResultDocument) -> dict[tuple[str, str], str]:
    """The budget section of each row, by model and label: of all seeds together, and of each for the other tables."""
    titles = {
        (row.model, row.group): section.title
        for board in boards(document)
        for section in board.sections
        for row in section.rows
    }
    return titles | {(row.model, row.label): titles[row.model, row.group] for row in rows_of(document)}


def _methods_of_rows(document: ResultDocument) -> dict[tuple[str, str], str]:
    """What the method of each row does, by model and label, where that is known."""
    known = _methods(document)
    return {
        (row.model, row.label): f"{row.method}: {known[row.method][0]}"
        for row in together(rows_of(document))
        if row.method in known
    }


@dataclass(frozen=True)
class PageFigure:
    """A figure on the page: each panel as an <svg>, and the legend as (name, symbol)."""

    title: str
    panels: list[str]
    legend: list[tuple[str, str]]
    note: str

    @property
    def columns(self) -> int:
        """The most panels of a line, so that lines are about equally full: five are three and two."""
        lines = -(-len(self.panels) // MOST_COLUMNS)
        return -(-len(self.panels) // lines)


def _figures(document: ResultDocument) -> list[PageFigure]:
    """Panels one by one, so that they wrap on a narrow screen in place of getting too small to read."""
    from evals.report import figure_style, figures

    found = []
    for name, drawing in figures.drawings(document):
        places = range(len(drawing.panels))
        drawn = figure_style.in_turn((f"{name}-{place}", partial(drawing.panel, place)) for place in places)
        panels = [themed(figure_style.svg(figure, panel)) for panel, figure in drawn]
        legend = [(entry, themed(symbol(look))) for entry, look in drawing.legend.items()]
        found.append(PageFigure(FIGURES[name.split("-")[0]], panels, legend, drawing.note))
    return found


def _symbols(document: ResultDocument) -> dict[tuple[str, str], str]:
    """The symbol of each row of the main tables, by model and label."""
    rows = together(rows_of(document))
    looks = looks_of(shown_name(row) for row in rows)
    return {(row.model, row.label): themed(symbol(own_look(row, looks))) for row in rows}


def _facts(document: ResultDocument, made: Mapping[str, Any]) -> dict[str, Any]:
    """The page's data on every number: the document's cells, and what made them."""
    return {
        "cells": {cell_key(cell): cell for cell in document["cells"]},
        "made": made,
        "names": {task: task_name(task) for task in tasks_of(document)},
        "alpha": ALPHA,
        "kinds": KINDS,
        "methods": _methods(document),
        "units": {task.name: task.units for task in known_tasks(tasks_of(document)) if task.units != Task.units},
        "counted": _counted(document),
    }


def _methods(document: ResultDocument) -> dict[str, tuple[str, str, str]]:
    """What each method does, its paper and its code. Only hidrop's: those of others would have to be imported."""
    names = dict.fromkeys(cell["method"] for cell in document["cells"] if "code" not in cell)
    return {name: summary(name) for name in names if name in METHODS}


def _counted(document: ResultDocument) -> dict[str, int]:
    """Of each cell of a task that scores groups of samples, their number."""
    found = {
        cell_key(cell): get_task(cell["task"]).unit_count(cell["n"], cell["extra"])
        for cell in document["cells"]
        if known(cell["task"])
    }
    return {key: count for key, count in found.items() if count is not None}


def _script_safe(data: Any) -> Any:
    """JSON for a script element: "<" is escaped, so that no text can close the element."""
    from markupsafe import Markup

    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))
