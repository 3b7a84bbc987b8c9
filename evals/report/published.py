"""Table of published and measured numbers, with the source of each published number."""

from __future__ import annotations

import math
from collections.abc import Iterable

from evals.report.columns import SHARE_HEADER, score_text, share_and_tokens, task_name
from evals.report.reference import CitedSource, Published, Reference, available, load_reference
from evals.report.rows import TableRow, number, rows_of, tasks_of, without_percent
from evals.report.sections import NEAR_SHARE, NEAR_TOKENS, VANILLA
from evals.report.tables import Entry, Sheet
from evals.report.units import MISSING, fixed, share_text
from evals.store.result_document import ResultDocument
from evals.tasks.registry import TASKS, get_task
from hidrop.errors import UserError
from hidrop.plan import TokenPlan
from hidrop.strict_yaml import suggestion

MEASURED = "measured here"
# The matrices whose tables have published numbers next to measured ones, without naming reference files.
PAPERS = ("paper", "paper-full", "baselines")
OUTSIDE = " !"
# Operations over those of the mean image: at least 1 but for rounding, and images would have to differ by far more
# than those of a benchmark do to reach the upper bound.
DIFFERENT_IMAGES = (0.95, 1.25)
AFTER = {
    "encoder": "kept after the encoder",
    "layer": "kept after the method's layer",
    "average": "average over the layers",
}


def references_of(document: ResultDocument) -> list[Reference]:
    """The reference files that the document names under "reference"; all files for the matrices of `PAPERS`."""
    named = document.get("reference")
    if named is None:
        named = available() if document["matrix"] in PAPERS else []
    names = [named] if isinstance(named, str) else named
    if unknown := [name for name in names if name not in available()]:
        # A results folder may come from somebody else: it names no other files of this machine.
        raise UserError(
            f"reference '{unknown[0]}': not a bundled file of published numbers.{suggestion(unknown[0], available())}"
        )
    return [load_reference(name) for name in names]


def published_sheet(document: ResultDocument) -> Sheet | None:
    """Measured rows, each followed by the published numbers of the same method and budget; None if there are none.

    Only rows with the reference's architecture are compared. The share comes first, then the average over the layers:
    "~" marks an inferred average; "(192)?" is the source's label if the average is unknown. If exactly one measured row
    corresponds best (see `compared_with`), a published score is followed by measured minus published, and by OUTSIDE if
    the published score is outside the measured 95 % interval.

    If images have their own numbers of tokens, published numbers are grouped by the size of the images. Measured rows
    come first and without differences: a document does not state the size of its images.

    Published scores of another split than the measured one (`other_splits`) come after those of the tasks, without
    differences. A mean in percent of vanilla has the number of tasks that it is over: a published one is the source's
    own, and is missing where the source has none.
    """
    sections: list[tuple[str, list[list[str]]]] = []
    measured, splits, own = rows_of(document), other_splits(document), tasks_of(document)
    tasks, counted = [*own, *splits], len(set(own) - without_percent(document))
    for reference, entries in comparable(document):
        rows = [row for row in measured if same_architecture(row, reference)]
        own_sizes = reference.sizes.dynamic
        if own_sizes and entries:
            methods = {entry.method for entry in entries}
            ours = [row for row in rows if row.method in methods]
            lines = [_our_line(row, tasks, counted) for row in ours]
            sections.append((f"{reference.model}, {MEASURED}", lines))
        for group in grouped(entries):
            ours = [] if own_sizes else [row for row in rows if any(corresponds(row, entry) for entry in group)]
            lines = [_our_line(row, tasks, counted) for row in ours]
            lines += [_line(entry, reference, tasks, compared_with(entry, ours)) for entry in group]
            sections.append((_title(group[0], reference), lines))
    if not sections:
        return None
    names = (*map(task_name, own), *map(split_name, splits))
    headers = ("Source", "Model or setting", SHARE_HEADER, *names, "% of vanilla")
    fields = tuple((title, tuple(tuple(map(Entry, line)) for line in lines)) for title, lines in sections)
    return Sheet("Published and measured numbers", headers, fields)


def _title(entry: Published, reference: Reference) -> str:
    """For example: llava-1.5-7b, fastv at 11.1 % (64 tokens), training-free"""
    parts = [reference.model, entry.images]
    if entry.method == VANILLA:
        parts.append(VANILLA)
    else:
        parts.append(f"{entry.method} at {_budget(entry, reference)}")
        parts.append("trained" if entry.trained else "training-free")
    return ", ".join(filter(None, parts))


def _budget(entry: Published, reference: Reference) -> str:
    if entry.share is not None:
        return f"{entry.share:.1f} %" + (f" ({entry.label:g} tokens)" if entry.label else "")
    return f"{share_text(entry.tokens / reference.sizes.visual_tokens)} ({entry.tokens:g} tokens)"


def same_architecture(row: TableRow, reference: Reference) -> bool:
    """Whether a row's model has the reference's architecture: the same layers, visual tokens and operations.

    With images of different sizes the layers' tokens are rounded means, and operations grow faster than tokens. The
    decoders of LLaVA-1.5 and LLaVA-NeXT are equal: only their images differ.
    """
    sizes = reference.sizes
    if row.paper_macs is None or len(row.entering) != sizes.layers or row.own_sizes != sizes.dynamic:
        return False
    planned = TokenPlan(sizes, row.entering).paper_macs()
    if sizes.dynamic:
        low, high = DIFFERENT_IMAGES
        return low * planned <= row.paper_macs <= high * planned
    return row.visual_tokens == sizes.visual_tokens and planned == round(row.paper_macs)


def corresponds(row: TableRow, entry: Published) -> bool:
    """Whether a row has the method, training and labeled budget of a published entry, or its setting."""
    if row.method != entry.method or row.trained != entry.trained:
        return False
    return row.method == VANILLA or _near(row.nominal_tokens, entry.tokens) or _has_setting(row, entry)


def compared_with(entry: Published, ours: list[TableRow]) -> TableRow | None:
    """The row that an entry's scores are compared with: the only one with its setting, or else the only one.

    Labels that are no averages (SparseVLM, DART) may have two: one with the published fields, and one whose fields
    follow from a budget of that number.
    """
    found = [row for row in ours if _has_setting(row, entry)] or [row for row in ours if corresponds(row, entry)]
    return found[0] if len(found) == 1 else None


def _has_setting(row: TableRow, entry: Published) -> bool:
    """Whether a row whose fields do not follow from a budget has the average that an entry's published fields give."""
    known = entry.true_average is not None and entry.basis != "inferred" and row.budget is None
    return known and _near(row.average_tokens, entry.true_average or 0)


def _near(tokens: float, published: float) -> bool:
    return abs(tokens - published) <= max(NEAR_TOKENS, NEAR_SHARE * published)


def sources_used(document: ResultDocument) -> list[CitedSource]:
    """The sources cited in `published_sheet`, in the order of the reference file."""
    used: dict[str, CitedSource] = {}
    for reference, entries in comparable(document):
        cited = {entry.source for entry in entries}
        used |= {key: source for key, source in reference.sources.items() if key in cited}
    return list(used.values())


def published_metrics(document: ResultDocument) -> dict[str, str]:
    """The metric of the published scores, by heading, for each of the document's tasks that has one."""
    used = [reference for reference, entries in comparable(document) if entries]
    kinds = {task: kind.metric for reference in used for task, kind in reference.scores.items()}
    names = {task: task_name(task) for task in tasks_of(document)}
    names |= {task: split_name(task) for task in other_splits(document)}
    return {name: kinds[task] for task, name in names.items() if task in kinds}


def other_splits(document: ResultDocument) -> list[str]:
    """Tasks with published scores that are another split of a measured benchmark, such as the server's test-dev."""
    found = comparable(document)
    scored = {task for _, entries in found for entry in entries for task in entry.scores}
    return [task for task in _twins(tasks_of(document)) if task in scored]


def _twins(measured: list[str]) -> list[str]:
    """The first-class tasks with another split of the same repository as a measured one, and not measured."""
    sources = [get_task(task).source for task in measured if task in TASKS]
    splits = {(source.repository, source.split) for source in sources}
    found = {name: get_task(name).source for name in TASKS if name not in measured}
    return [
        name
        for name, source in found.items()
        if any(source.repository == repository and source.split != split for repository, split in splits)
    ]


def split_name(task: str) -> str:
    """The heading of a published split that was not measured, such as "VQAv2 (test)"."""
    return f"{task_name(task).partition(' (')[0]} ({get_task(task).source.split})"


def citation(source: CitedSource) -> str:
    """The full citation of a source."""
    link = f", {source.url}" if source.url else ""
    note = f". Note: {source.note}" if source.note else ""
    return f"{source.title}, {source.where}{link}{note}"


def comparable(document: ResultDocument) -> list[tuple[Reference, list[Published]]]:
    """Each reference with its entries for methods and tasks that the document measured on its architecture."""
    rows, measured, found = rows_of(document), tasks_of(document), []
    tasks = {*measured, *_twins(measured)}
    for reference in references_of(document):
        methods = {row.method for row in rows if same_architecture(row, reference)}
        entries = [e for e in reference.entries if e.method in methods and (e.mean_percent or tasks & set(e.scores))]
        found.append((reference, entries))
    return found


def grouped(entries: Iterable[Published]) -> list[list[Published]]:
    """Entries grouped by images, method, training and budget.

    Order: the size of the images as the file has it, vanilla, then most tokens first, method, training.
    """
    groups: dict[tuple[str, str, bool, float], list[Published]] = {}
    for entry in entries:
        groups.setdefault((entry.images, entry.method, entry.trained, entry.budget), []).append(entry)
    images = list(dict.fromkeys(key[0] for key in groups))
    order = sorted(groups, key=lambda key: (images.index(key[0]), key[1] != VANILLA, -key[3], key[1], key[2]))
    return [groups[key] for key in order]


def _our_line(row: TableRow, tasks: list[str], counted: int) -> list[str]:
    """counted: the number of tasks that the row's mean is over."""
    scores = [score_text(row.scores.get(task), own_scale=task in row.own_scale) for task in tasks]
    tokens = share_and_tokens(row.share, row.average_tokens)
    mean = MISSING if row.percent_of_vanilla is None else f"{fixed(row.percent_of_vanilla)} of {counted}"
    return [MEASURED, f"{row.model}, {row.label}", tokens, *scores, mean]


def _line(entry: Published, reference: Reference, tasks: list[str], ours: TableRow | None) -> list[str]:
    scores = [_score(entry.scores[task], ours, task) if task in entry.scores else MISSING for task in tasks]
    mean = MISSING if entry.mean_percent is None else f"{printed(entry.mean_percent)} of {entry.mean_tasks or '?'}"
    setting = ", ".join(filter(None, (entry.setting, AFTER[entry.after] if entry.after else ""))) or MISSING
    return [reference.sources[entry.source].short, setting, _tokens(entry, reference), *scores, mean]


def _score(published: float, ours: TableRow | None, task: str) -> str:
    """For example: 61.9 (-0.9), or 61.9 (-4.2 !)"""
    measured = None if ours is None else number(ours.scores.get(task))
    if ours is None or measured is None:
        return printed(published)
    low, high = ours.stats[task]["interval"] if task in ours.stats else (-math.inf, math.inf)
    return f"{printed(published)} ({measured - published:+.1f}{'' if low <= published <= high else OUTSIDE})"


def _tokens(entry: Published, reference: Reference) -> str:
    if entry.share is not None:
        return f"{entry.share:.1f} %" + (f" ({entry.label:g})" if entry.label else "")
    tokens = entry.tokens if entry.true_average is None else entry.true_average
    text = f"{share_text(tokens / reference.sizes.visual_tokens)} ({tokens:g})"
    return f"{text}?" if entry.true_average is None else f"{'~' * (entry.basis == 'inferred')}{text}"


def printed(value: float) -> str:
    """A published number with one decimal, or more if it has more."""
    return f"{value:.1f}" if round(value, 1) == value else f"{value:g}"
