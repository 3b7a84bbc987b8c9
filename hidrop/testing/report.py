"""What a check found: a table of properties, and the failures in words."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "failed", "refused", "skipped"]
WIDTH = 100  # of the text of a failure


class Fault(Exception):
    """A property does not hold: what was seen, and where."""


class Skip(Exception):
    """A property has no meaning for a method, with the reason."""


@dataclass(frozen=True)
class Outcome:
    """One property on one family (`family` is empty for those that need no model).

    `why`: what was seen if it failed, else the reason that it was refused or skipped, or a note.
    """

    property: str
    family: str
    status: Status
    why: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Failure:
    """The same fault of one property, on one family or several: what was seen, the rule, and what to do."""

    property: str
    families: tuple[str, ...]
    seen: str
    rule: str
    fix: str

    def text(self) -> str:
        where = f" ({', '.join(self.families)})" if any(self.families) else ""
        parts = [f"{self.property}{where}"]
        for label, words in (("seen: ", self.seen), ("rule: ", self.rule), ("to do:", self.fix)):
            indent = f"   {label} "
            parts.append(textwrap.fill(words, WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent)))
        return "\n".join(parts)


@dataclass(frozen=True)
class Report:
    """All outcomes of a check, in the order in which they were tried. `str()` is a table for people."""

    method: str
    outcomes: tuple[Outcome, ...]
    failures: tuple[Failure, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.failures

    @property
    def refused(self) -> dict[str, str]:
        """The families that the method refuses, with its reasons."""
        return {one.family: one.why for one in self.outcomes if one.status == "refused"}

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.outcomes)

    def __str__(self) -> str:
        heads = ("property", "ok", "failed", "skipped", "seconds", "why")
        lines = [
            heads,
            *(self._row(name) for name in dict.fromkeys(one.property for one in self.outcomes if one.property)),
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
        table = [
            "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        table += [f"refused: {family}: {why}" for family, why in self.refused.items()]
        state = "every property holds" if self.ok else f"{len(self.failures)} failures"
        return "\n".join([f"{self.method}: {state} ({self.seconds:.1f} s)", *table])

    def _row(self, name: str) -> tuple[str, ...]:
        found = [one for one in self.outcomes if one.property == name]
        ok, failed, skipped = ([one for one in found if one.status == status] for status in ("ok", "failed", "skipped"))
        notes = dict.fromkeys(one.why for one in (*skipped, *ok) if one.why)

        def listed(some: list[Outcome]) -> str:
            """Their number; where it is not every family, their names."""
            if not some:
                return "-"
            if len(some) == len(found) or len(some) > 2:
                return str(len(some)) if any(one.family for one in some) else "yes"
            return ", ".join(one.family for one in some)

        seconds = sum(one.seconds for one in found)
        return name, listed(ok), listed(failed), listed(skipped), f"{seconds:.1f}", "; ".join(notes)


class MethodError(AssertionError):
    """A method that does not keep what hidrop asks of one. `report` has every outcome."""

    def __init__(self, report: Report) -> None:
        self.report = report
        count = len(report.failures)
        head = f"{report.method}: {count} failure{'s' if count > 1 else ''}"
        listed = (f"{number}. {failure.text()}" for number, failure in enumerate(report.failures, 1))
        super().__init__("\n\n".join([head, *listed]))
