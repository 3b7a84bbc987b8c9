"""Who won: for each budget the best method, what ties with it, and whether it beats vanilla and the null baselines.

All numbers are % of vanilla, the mean over the tasks. A difference is beyond chance if its 95 % interval leaves out 0.
A row's interval is that of its difference from vanilla on the same samples, and the interval of two rows that of their
difference on the same samples (`evals.report.spreads`). It is not corrected for the best row having been chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evals.profiling.ratios import RatioEntry
from evals.report.caption import counted
from evals.report.columns import task_name
from evals.report.rows import TableRow, TimedPart, tasks_of
from evals.report.sections import Board, Section, boards
from evals.report.spreads import Spreads
from evals.report.units import ratio
from evals.store.result_document import ResultDocument
from evals.tasks.data import MINI
from hidrop.errors import some_of
from hidrop.methods import METHODS, method_class

MOST_TIED = 3  # are named; the others are counted


@dataclass(frozen=True)
class Difference:
    """A difference in percent of vanilla. `half`: half of its 95 % interval; None if it is not known."""

    value: float
    half: float | None

    @property
    def beyond_chance(self) -> bool | None:
        return None if self.half is None else abs(self.value) > self.half

    def words(self) -> str:
        """For example "7.3 ± 2.5, beyond chance", without the sign."""
        if self.half is None:
            return f"{abs(self.value):.1f}, not tested"
        chance = "beyond chance" if self.beyond_chance else "within chance"
        return f"{abs(self.value):.1f} ± {self.half:.1f}, {chance}"


@dataclass(frozen=True)
class Headline:
    """The best row of a section. `tied`: rows whose difference from it is within chance, the best ones first.

    `null`: the best null baseline at the same budget, trained or not; None if there is none. `also_over_null`: the
    other rows that are above it beyond chance. `losses`: the tasks in which the best row is below vanilla and has a
    star in the table. `speed_ups`: over vanilla; empty if not timed in the same rounds as vanilla.
    """

    section: Section
    best: TableRow
    main_model: str
    tied: tuple[TableRow, ...]
    from_vanilla: Difference
    null: TableRow | None
    over_null: Difference | None
    also_over_null: tuple[TableRow, ...]
    losses: tuple[str, ...]
    speed_ups: Mapping[TimedPart, RatioEntry]

    @property
    def percent(self) -> float:
        return self.best.percent_of_vanilla or 0.0

    def name(self, row: TableRow) -> str:
        """The row's label, with its model if it is not that of most rows."""
        return row.label if row.model == self.main_model else f"{row.label} ({row.model})"

    def sentence(self) -> str:
        """The whole headline as text."""
        tied = f", tied with {self.tied_words()}" if self.tied else ""
        speed = f"; {self.speed_words()}" if self.speed_words() else ""
        losses = f" {self.losses_sentence()}" if self.losses else ""
        return f"{self.name(self.best)} {self.kept_words()}{tied}{speed}.{losses} {self.null_sentence()}"

    def losses_sentence(self) -> str:
        return f"Significantly below vanilla in {', '.join(self.losses)}."

    def kept_words(self) -> str:
        """For example "keeps 93.3 ± 2.2 % of vanilla (a loss beyond chance)"."""
        half, beyond = self.from_vanilla.half, self.from_vanilla.beyond_chance
        spread = f" ± {half:.1f}" if half is not None else ""
        way = "loss" if self.from_vanilla.value < 0 else "gain"
        chance = "" if beyond is None else f" (a {way} beyond chance)" if beyond else f" (no {way} beyond chance)"
        return f"keeps {self.percent:.1f}{spread} % of vanilla{chance}"

    def tied_words(self) -> str:
        return self._listed(self.tied)

    def _listed(self, rows: Sequence[TableRow]) -> str:
        return some_of([*map(self.name, rows)], MOST_TIED)

    def speed_words(self) -> str:
        """ "" if nothing was timed."""
        if self.best.profile is None:
            return ""
        if not self.speed_ups:
            return "not timed in the same rounds as vanilla"
        names = {
            "prefill": "prefill",
            "ttft": "TTFT",
            "request": f"request of {counted(self.best.profile['new_tokens'], 'output token')}",
        }
        return ", ".join(f"{names[part]} {ratio(found, interval=True)}" for part, found in self.speed_ups.items())

    def null_sentence(self) -> str:
        """Whether a null baseline is as good."""
        if self.null is None:
            return "No null baseline was run at this budget (random, uniform, pool)."
        if self.over_null is None:
            return "It is a null baseline, and no other method is better at this budget."
        other = " on other weights" if self.null.model != self.best.model else ""
        name = self.name(self.null) + other
        if self.over_null.value < 0:
            return f"The null baseline {name} is better, by {self.over_null.words()}."
        also = f" Also above it beyond chance: {self._listed(self.also_over_null)}." if self.also_over_null else ""
        return f"Above the best null baseline, {name}, by {self.over_null.words()}.{also}"


def headlines(document: ResultDocument) -> list[Headline]:
    """One for each budget at which some method has a % of vanilla, in the order of the tables."""
    spreads = Spreads(document)
    found = (_of_section(board, section, spreads) for board in boards(document) for section in board.sections)
    return [one for one in found if one is not None]


def is_null(row: TableRow) -> bool:
    """Whether a row's method is a null baseline of hidrop. The code of other methods is not imported to ask it."""
    return row.method in METHODS and method_class(row.method).null_baseline


def _of_section(board: Board, section: Section, spreads: Spreads) -> Headline | None:
    """None for vanilla, and where null baselines are alone."""
    ranked = _ranked(section.rows)
    if section.tokens is None or all(map(is_null, ranked)):
        return None
    best, *others = ranked
    same = [row for one in board.sections if one.tokens == section.tokens for row in one.rows]
    null = next(iter(_ranked([row for row in same if is_null(row)])), None)
    parts: tuple[TimedPart, ...] = ("prefill", "ttft", "request")
    speed = {part: found for part in parts if (found := board.speed_up(best, part))}
    return Headline(
        section=section,
        best=best,
        main_model=board.main_model,
        tied=tuple(row for row in others if _between(best, row, spreads).beyond_chance is False),
        from_vanilla=Difference((best.percent_of_vanilla or 0) - 100, spreads.from_vanilla(best)),
        null=null,
        over_null=None if null is None or null is best else _between(best, null, spreads),
        also_over_null=tuple(row for row in others if null is not None and _above(row, null, spreads)),
        losses=tuple(task_name(task) for task in best.scores if _lost(best, task)),
        speed_ups=speed,
    )


def _above(one: TableRow, other: TableRow, spreads: Spreads) -> bool:
    """Whether a row is above another one beyond chance."""
    found = _between(one, other, spreads)
    return found.value > 0 and bool(found.beyond_chance)


def _lost(row: TableRow, task: str) -> bool:
    """Whether a row's score is significantly worse than vanilla's, as the table marks it. False for several seeds."""
    against = row.against(task)
    if against is None or not row.significant(task):
        return False
    return against["difference"] > 0 if task in row.lower_is_better else against["difference"] < 0


def _ranked(rows: Sequence[TableRow]) -> list[TableRow]:
    known = [row for row in rows if row.percent_of_vanilla is not None]
    return sorted(known, key=lambda row: -(row.percent_of_vanilla or 0))


def _between(one: TableRow, other: TableRow, spreads: Spreads) -> Difference:
    """One row minus another."""
    return Difference((one.percent_of_vanilla or 0) - (other.percent_of_vanilla or 0), spreads.between(one, other))


def doubts(document: ResultDocument) -> Iterator[str]:
    """What a reader has to know before trusting the numbers, in words; nothing for a clean run."""
    cells = document["cells"]
    if failed := document["failed"]:
        yield f"{counted(len(failed), 'cell')} failed"
    if warned := [cell for cell in cells if cell["warnings"]]:
        yield f"{counted(len(warned), 'cell')} with warnings (marked !)"
    if lost := sum(cell["n_failed"] for cell in cells):
        yield f"{counted(lost, 'sample')} failed and count as wrong"
    if older := [cell for cell in cells if cell.get("older")]:
        yield f"{counted(len(older), 'cell')} of an earlier version of the code"
    if embedded := [task_name(task) for task in tasks_of(document) if document["data"].get(task) == MINI]:
        yield f"{', '.join(embedded)}: hidrop's embedded data, drawn scenes in the form of these benchmarks"
    if document["profiles"] and not document["hardware"].get("gpu"):
        yield f"times are of a CPU with {counted(int(document['hardware'].get('threads') or 1), 'thread')}"
    if document["limit"]:
        yield f"only the first {counted(document['limit'], 'sample')} of each task"
    if unscored := dict.fromkeys(cell["task"] for cell in cells if "unscored" in cell):
        yield f"not scored here: {', '.join(unscored)}"


def lines(document: ResultDocument) -> str:
    """The headlines as text, one line for each budget. Empty without a comparison with vanilla."""
    return "\n".join(f"{one.section.title}: {one.sentence()}" for one in headlines(document))
