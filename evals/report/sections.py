"""Rows in sections that may be compared with each other: same architecture, about the same budget."""

from __future__ import annotations

from dataclasses import dataclass

from evals.report.rows import TableRow, rows_of
from evals.report.seeds import together
from evals.store.result_document import ResultDocument

VANILLA = "vanilla"
READINGS = {"average": "on average", "kept": "kept after the last cut"}
# A method without a stated budget joins a budget's section when its average comes this near: HiDrop's schedule for
# "80 tokens" has 80.03.
NEAR_TOKENS, NEAR_SHARE = 0.5, 0.02


@dataclass(frozen=True)
class Section:
    """Rows with about the same budget, trained and training-free kept apart."""

    title: str
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class Board:
    """All sections of one architecture."""

    title: str
    sections: tuple[Section, ...]

    @property
    def rows(self) -> tuple[TableRow, ...]:
        return tuple(row for section in self.sections for row in section.rows)


def boards(document: ResultDocument) -> list[Board]:
    """The document's rows by architecture, then by budget (largest first), training-free before trained.

    The seeds of a method are one row.
    """
    by_architecture: dict[tuple[int, int], list[TableRow]] = {}
    for row in together(rows_of(document)):
        by_architecture.setdefault(row.architecture, []).append(row)
    return [
        Board(f"{layers} layers, {visual} visual tokens", tuple(_sections(rows)))
        for (layers, visual), rows in by_architecture.items()
    ]


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
                sections.append(Section(f"{anchor:.4g} tokens {READINGS[some[0].reading]}, {kind}", some))
    return sections


def _anchor(tokens: float, anchors: list[float]) -> float | None:
    """The section a budget belongs to: the nearest one that is near enough."""
    nearest = min(anchors, key=lambda anchor: abs(anchor - tokens), default=None)
    if nearest is None or abs(nearest - tokens) > max(NEAR_TOKENS, NEAR_SHARE * nearest):
        return None
    return nearest
