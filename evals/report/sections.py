"""Group rows into sections that can be compared: same architecture, about the same budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from evals.profiling.ratios import RatioEntry
from evals.report.rows import TableRow, TimedPart, rows_of
from evals.report.seeds import together
from evals.report.units import share_text
from evals.store.result_document import ResultDocument

VANILLA = "vanilla"
READINGS = {"average": "on average", "kept": "kept after the last cut"}
# A row joins the section of a budget within this distance: HiDrop's schedule for "80 tokens" averages 80.03.
NEAR_TOKENS, NEAR_SHARE = 0.5, 0.02


@dataclass(frozen=True)
class Section:
    """Rows with about the same budget, either all trained or all training-free.

    `tokens`: the budget as a number of visual tokens; None for rows with all of them.
    """

    title: str
    rows: tuple[TableRow, ...]
    tokens: float | None = None


@dataclass(frozen=True)
class Board:
    """All sections of one architecture."""

    title: str
    sections: tuple[Section, ...]

    @property
    def rows(self) -> tuple[TableRow, ...]:
        return tuple(row for section in self.sections for row in section.rows)

    @property
    def main_model(self) -> str:
        """The model of most rows."""
        return Counter(row.model for row in self.rows).most_common(1)[0][0]

    def speed_up(self, row: TableRow, part: TimedPart) -> RatioEntry | None:
        """See `speed_up`."""
        return speed_up(self.rows, row, part)


def speed_up(rows: Iterable[TableRow], row: TableRow, part: TimedPart) -> RatioEntry | None:
    """Vanilla's time over that of the row, on the same model; None if they were not timed together.

    Rows of two models are timed one after the other, and a machine may be twice as fast a minute later. Documents from
    before speed-ups were stored have the medians of both, and no interval.
    """
    if row.profile is not None and (stored := row.profile.get("speed_ups")):
        return stored[part]
    whole = next((one for one in rows if one.method == VANILLA and one.model == row.model), None)
    theirs, own = None if whole is None else whole.milliseconds_of(part), row.milliseconds_of(part)
    return {"ratio": theirs / own, "low": None, "high": None} if theirs and own else None


def boards(document: ResultDocument) -> list[Board]:
    """The document's rows by architecture, then by budget (largest first), training-free before trained.

    All seeds of a method form one row.
    """
    by_architecture: dict[tuple[int, int | None], list[TableRow]] = {}
    for row in together(rows_of(document)):
        by_architecture.setdefault(row.architecture, []).append(row)
    return [
        Board(f"{layers} layers, {_images(visual)}", tuple(_sections(rows)))
        for (layers, visual), rows in by_architecture.items()
    ]


def _images(visual: int | None) -> str:
    return "images of any number of visual tokens" if visual is None else f"{visual} visual tokens"


def _sections(rows: list[TableRow]) -> list[Section]:
    whole = [row for row in rows if row.method == VANILLA]
    reduced = [row for row in rows if row.method != VANILLA]
    anchors: list[float] = []
    for row in sorted(reduced, key=lambda row: row.budget is None):  # stated budgets name the sections
        if _anchor(row.nominal_tokens, anchors) is None:
            anchors.append(row.nominal_tokens)
    sections = [Section("All visual tokens", tuple(whole))] if whole else []
    for anchor in sorted(anchors, reverse=True):
        here = [row for row in reduced if _anchor(row.nominal_tokens, anchors) == anchor]
        for trained, kind in ((False, "training-free"), (True, "trained")):
            some = tuple(row for row in here if row.trained is trained)
            if some:
                share = share_text(anchor / some[0].budget_tokens_of)
                tokens = "" if some[0].nominal else f" ({anchor:.4g} tokens)"
                title = f"{share}{tokens} {READINGS[some[0].reading]}, {kind}"
                sections.append(Section(title, some, anchor))
    return sections


def _anchor(tokens: float, anchors: list[float]) -> float | None:
    """The nearest section's budget within NEAR_TOKENS or NEAR_SHARE; None if no section is that near."""
    nearest = min(anchors, key=lambda anchor: abs(anchor - tokens), default=None)
    if nearest is None or abs(nearest - tokens) > max(NEAR_TOKENS, NEAR_SHARE * nearest):
        return None
    return nearest
