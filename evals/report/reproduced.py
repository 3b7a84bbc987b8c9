"""The table Paper / Reproduced / Difference: each published score next to what the run measured, with a verdict.

It has the published numbers of `results/reference/` for the models, methods and tasks of a run (see
`evals.report.published`). Scores that the run could have measured and has not are "not run", so that nobody takes a
table of what worked for everything that was published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evals.report.columns import score_text, task_name
from evals.report.published import comparable, compared_with, corresponds, grouped, printed, same_architecture
from evals.report.reference import Published, Reference
from evals.report.rows import TableRow, number, rows_of, tasks_of
from evals.report.sections import VANILLA
from evals.report.tables import Entry, Sheet
from evals.report.units import MISSING
from evals.report.verdict import MARGIN, Verdict, of_score
from evals.store.result_document import ResultDocument
from evals.tasks.registry import TASKS, get_task

TITLE = "Paper / Reproduced / Difference"
HEADERS = ("Published", "Task", "Verdict", "Source", "Row", "Paper", "Reproduced", "Difference", "95 % interval")
TEXT_COLUMNS = 5  # the verdict is among the first, so that a narrow screen shows it without scrolling
NOT_RUN, NO_INTERVAL = "not run", "no interval"
SEVERAL = {"agrees": "agree", "differs": "differ"}  # "3 agree", and other words as they are


@dataclass(frozen=True)
class Compared:
    """A published score and what the run has for it. `measured`: its score, or what stands there instead ("failed").

    verdict: None without a measured score, or without its interval.
    """

    entry: Published
    row: TableRow
    task: str
    paper: float
    measured: float | str
    verdict: Verdict | None

    @property
    def word(self) -> str:
        """The verdict in a word."""
        if isinstance(self.measured, str):
            return self.measured
        return self.verdict.verdict if self.verdict else NO_INTERVAL


@dataclass(frozen=True)
class Reproduced:
    """What became of a reference's scores: those with a measured row, and for each other entry its tasks."""

    reference: Reference
    compared: tuple[Compared, ...]
    not_run: tuple[tuple[Published, tuple[str, ...]], ...]

    @property
    def counts(self) -> str:
        """For example: 3 agree, 1 differ, 12 not run"""
        found = Counter(one.word for one in self.compared)
        found[NOT_RUN] += sum(len(tasks) for _, tasks in self.not_run)
        return ", ".join(f"{count} {SEVERAL.get(word, word)}" for word, count in found.items() if count)


def reproduced(document: ResultDocument) -> list[Reproduced]:
    """For each reference with scores of the run's methods and tasks. Empty without published numbers.

    Models whose images have their own numbers of tokens are left out: their published numbers differ in the size of the
    images, which a document does not state.
    """
    rows, tasks = rows_of(document), tasks_of(document)
    samples = {(cell["model"], cell["label"], cell["task"]): cell["n"] for cell in document["cells"]}
    found = []
    for reference, entries in comparable(document):
        if reference.sizes.dynamic:
            continue
        ours = [row for row in rows if same_architecture(row, reference)]
        compared: list[Compared] = []
        not_run: list[tuple[Published, tuple[str, ...]]] = []
        for entry in (entry for group in grouped(entries) for entry in group):
            own = [*_compared(entry, _rows(entry, ours), tasks, samples)]
            compared += own
            done = {one.task for one in own}
            if left := tuple(task for task in tasks if task in entry.scores and task not in done):
                not_run.append((entry, left))
        if compared or not_run:
            found.append(Reproduced(reference, tuple(compared), tuple(not_run)))
    return found


def _rows(entry: Published, ours: list[TableRow]) -> list[TableRow]:
    """The rows that an entry is compared with: the one that corresponds best, or else all that correspond."""
    best = compared_with(entry, ours)
    return [best] if best else [row for row in ours if corresponds(row, entry)]


def _compared(
    entry: Published, rows: Sequence[TableRow], tasks: Sequence[str], samples: Mapping[tuple[str, str, str], int]
) -> Iterator[Compared]:
    for task in tasks:
        for row in rows if task in entry.scores else ():
            measured = row.scores.get(task)
            if measured is None:
                continue
            verdict, paper, score = None, entry.scores[task], number(measured)
            if score is not None and task in row.stats:
                top = get_task(task).top if task in TASKS else 100.0
                interval = row.stats[task]["interval"]
                verdict = of_score(score, interval, paper, samples[row.model, row.label, task], top)
            yield Compared(entry, row, task, paper, measured, verdict)


def reproduced_sheet(document: ResultDocument) -> Sheet | None:
    """The table. Scores that were not run follow those that were, one line for each published row; None if empty."""
    sections: list[tuple[str, tuple[tuple[Entry, ...], ...]]] = []
    for one in reproduced(document):
        title = f"{one.reference.model}: {one.counts}"
        lines = [_line(each, one.reference) for each in one.compared]
        lines += [_missing(entry, tasks, one.reference) for entry, tasks in one.not_run]
        sections.append((title, tuple(tuple(map(Entry, line)) for line in lines)))
    return Sheet(TITLE, HEADERS, tuple(sections), TEXT_COLUMNS) if sections else None


def reading(document: ResultDocument) -> str:
    """How to read the table, for the caption; "" without one."""
    if not reproduced(document):
        return ""
    first = f"The run asked the first {document['limit']} samples of each task. " if document["limit"] else ""
    return (
        "the difference is measured minus published, and its interval that of the measured score. agrees: the interval "
        f"contains the published score and stays within {MARGIN:g} % of the scale; differs: it leaves it out; too few "
        f"samples: it reaches further; {NO_INTERVAL}: the task has none; {NOT_RUN}: nothing was measured for a "
        "published score of these models, methods and tasks. The published answers are not known here, so this does "
        f"not compare the same samples: `agree` does. {first}Papers use their own scripts, which need not be this "
        "run's protocol"
    )


def _published(entry: Published) -> str:
    """For example: fastv 64, or hidrop 64, trained"""
    name = entry.method if entry.method == VANILLA else f"{entry.method} {entry.tokens:g}"
    return f"{name}, trained" if entry.trained else name


def _line(one: Compared, reference: Reference) -> list[str]:
    score = one.measured if isinstance(one.measured, str) else score_text(one.measured, own_scale=False)
    verdict = one.verdict
    difference = MISSING if isinstance(one.measured, str) else f"{one.measured - one.paper:+.1f}"
    return [
        _published(one.entry),
        task_name(one.task),
        one.word,
        reference.sources[one.entry.source].short,
        f"{one.row.model}, {one.row.label}",
        printed(one.paper),
        score,
        difference,
        f"[{verdict.low:+.1f}, {verdict.high:+.1f}]" if verdict else MISSING,
    ]


def _missing(entry: Published, tasks: Sequence[str], reference: Reference) -> list[str]:
    """The scores of a published row that were not run, in the order of their tasks."""
    names, papers = (", ".join(map(show, tasks)) for show in (task_name, lambda task: printed(entry.scores[task])))
    known = [_published(entry), names, NOT_RUN, reference.sources[entry.source].short, MISSING, papers]
    return [*known, *[MISSING] * (len(HEADERS) - len(known))]
