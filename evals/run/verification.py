"""`run.py verify DIR`: run drawn cells of a results folder again, and compare their answers sample by sample.

The cells run in a temporary folder, by the runner of every run. Where only some samples are asked again, their journal
starts with the earlier answers of all others: the runner then answers what is missing, in batches that have the same
samples as before, so that padding and numbers are the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from evals.matrix.resolve import MatrixRow
from evals.matrix.schema import Matrix
from evals.matrix.validate import check
from evals.run import drawn_cells, engine, runner
from evals.run.cell_journals import CellJournals
from evals.run.drawn_cells import Drawn
from evals.run.interrupt import gently
from evals.run.progress import Progress
from evals.store.journal import Lines
from evals.store.records import AnswerRecord
from hidrop import provenance
from hidrop.devices import sees_cuda
from hidrop.errors import UserError

SHOWN = 20  # differing samples of a cell in the text; the document has all
HARDWARE = ("cpu", "gpu", "threads")


@dataclass(frozen=True)
class Changed:
    """A sample whose answer differs. then, now: both answers, or "error: ...". prompt: whether it differs too."""

    doc_id: int
    then: str
    now: str
    prompt: bool

    def line(self) -> str:
        """What to print."""
        return (
            f"    doc {self.doc_id}: then {self.then!r}, now {self.now!r}{' (another prompt)' if self.prompt else ''}"
        )


@dataclass(frozen=True)
class Verified:
    """A cell that ran again: `asked` of its `samples`. value_then, value_now: None if they were not compared.

    kept: samples with the same answer and other kept tokens. measured: where versions, code or machine differ from
    today, in words. error: why it could not be run.
    """

    cell: str
    asked: int
    samples: int
    changed: tuple[Changed, ...] = ()
    kept: int = 0
    value_then: float | None = None
    value_now: float | None = None
    measured: str = ""
    error: str | None = None

    @property
    def word(self) -> str:
        """same, differs, or failed."""
        if self.error is not None:
            return "failed"
        return "differs" if self.changed or self.value_then != self.value_now else "same"

    def lines(self) -> Iterable[str]:
        """What to print."""
        if self.error is not None:
            yield f"{self.word:8} {self.cell}: {self.error}"
            return
        told = f"{self.asked} of {self.samples} samples asked again"
        told += f", {len(self.changed)} with another answer" if self.changed else ""
        told += f", value {self.value_then} then, {self.value_now} now" if self.value_then != self.value_now else ""
        told += f", other tokens kept in {self.kept} more" if self.kept else ""
        yield f"{self.word:8} {self.cell}: {told}{f'; measured {self.measured}' if self.measured else ''}"
        yield from (one.line() for one in self.changed[:SHOWN])
        if len(self.changed) > SHOWN:
            yield f"    ... and {len(self.changed) - SHOWN} more (--json has them all)"


@dataclass(frozen=True)
class Verification:
    """What became of the drawn cells."""

    folder: str
    matrix: str
    cells: tuple[Verified, ...]

    @property
    def same(self) -> bool:
        """Whether every cell ran and gave the same answers."""
        return all(one.word == "same" for one in self.cells)

    def text(self) -> str:
        """A line for each cell, with the samples that differ, then the sum."""
        lines = [line for one in self.cells for line in one.lines()]
        words = [one.word for one in self.cells]
        counts = ", ".join(f"{words.count(word)} {word}" for word in ("same", "differs", "failed") if word in words)
        return "\n".join([*lines, f"{len(self.cells)} cells run again: {counts}"])


def verify(
    folder: Path,
    matrix: Matrix,
    drawn: Sequence[Drawn],
    *,
    workers: int | None = None,
    console: Console | None = None,
) -> Verification:
    """Run the drawn cells again. The folder is only read. console: for progress.

    Raises UserError, before anything runs, for cells that cannot be run again, with every reason.
    """
    parts, untimed = engine.default(workers), matrix.model_copy(update={"profile": None})
    with tempfile.TemporaryDirectory(prefix="hidrop-verify-") as name:
        rows, dated = _checked(folder, untimed, drawn, parts, Path(name))
        done: dict[str, Verified] = {}
        with gently() as pause:
            for device in dict.fromkeys(one.device for one in drawn):
                own, out = [one for one in drawn if one.device == device], Path(name) / device
                journals = CellJournals(out, rows, device, parts)
                paths = {one.cell.key: _begun(one, journals, parts) for one in own}
                sizes = {one.cell.key: len(one.lines.answers) for one in own}
                with Progress(console or Console(quiet=True), len(own), sizes) as progress:
                    made = runner.run(
                        untimed,
                        [one.cell for one in own],
                        rows,
                        out,
                        device=device,
                        engine=parts,
                        progress=progress,
                        pause=pause,
                    )
                errors = {f"{e['model']}/{e['label']}/{e['task']}": e["error"] for e in made["failed"]}
                now = provenance.session(device)
                for one in own:
                    key = one.cell.key
                    done[key] = _verified(one, paths[key], errors.get(key), _measured(one, now, dated[key]))
    return Verification(str(folder), matrix.name, tuple(done[one.cell.key] for one in drawn))


def _checked(
    folder: Path, matrix: Matrix, drawn: Sequence[Drawn], parts: engine.Engine, out: Path
) -> tuple[dict[tuple[str, str], MatrixRow], dict[str, list[str]]]:
    """The rows of the drawn cells, and the parts of each identity in which the code differs. Raises UserError."""
    if any(one.device == "cuda" for one in drawn) and not sees_cuda():
        raise UserError(f"{folder}: drawn cells were answered on cuda, and this machine has none. Verify them on a GPU")
    rows: dict[tuple[str, str], MatrixRow] = {}
    problems: list[str] = []
    for device in dict.fromkeys(one.device for one in drawn):
        found, wrong = check(matrix, [one.cell for one in drawn if one.device == device], device=device, out=out)
        rows, problems = rows | found, problems + wrong
    dated: dict[str, list[str]] = {}
    if not problems:
        problems, dated = drawn_cells.refusals(drawn, rows, parts)
    if problems:
        raise UserError("\n".join(dict.fromkeys(problems)))
    return rows, dated


def _begun(one: Drawn, journals: CellJournals, parts: engine.Engine) -> Path:
    """The path of the cell's new journal, which holds the earlier answers of the samples that are not asked again."""
    again = set(one.asked)
    with journals.open(one.cell, parts.weights_digest(one.cell.spec.source)) as log:
        if left := [answer for doc_id, answer in one.lines.answers.items() if doc_id not in again]:
            log.append(*left)
        return log.path


def _verified(one: Drawn, path: Path, error: str | None, measured: str) -> Verified:
    if error is not None:
        return Verified(one.cell.key, len(one.asked), len(one.lines.answers), measured=measured, error=error)
    again = Lines.of(path)
    changed, kept = _changed(one.asked, one.lines.answers, again.answers)
    values: list[float | None] = [None, None]
    results = [one.lines.result, again.result]
    if all(result is not None and "judge" not in result for result in results):
        values = [result["value"] if result else None for result in results]
    return Verified(
        one.cell.key, len(one.asked), len(one.lines.answers), tuple(changed), kept, values[0], values[1], measured
    )


def _changed(
    asked: Iterable[int], then: Mapping[int, AnswerRecord], now: Mapping[int, AnswerRecord]
) -> tuple[list[Changed], int]:
    """The samples with other answers, and how many others kept other tokens."""
    found, kept = [], 0
    for doc_id in asked:
        before, after = then[doc_id], now.get(doc_id)
        if after is None or (before["answer"], before["error"]) != (after["answer"], after["error"]):
            prompts = [record.get("prompt_hash") for record in (before, after) if record is not None]
            found.append(Changed(doc_id, _said(before), _said(after), len(prompts) == 2 and prompts[0] != prompts[1]))
        elif before.get("kept") != after.get("kept"):
            kept += 1
    return found, kept


def _said(answer: AnswerRecord | None) -> str:
    if answer is None:
        return "not asked"
    return answer["answer"] if answer["error"] is None else f"error: {answer['error']}"


def _measured(one: Drawn, now: Mapping[str, Any], dated: Sequence[str]) -> str:
    """In what the sessions that answered a cell differ from this one, in words; "" if in nothing.

    dated: the parts of its identity in which the code differs.
    """
    parts = []
    for session in one.lines.provenance:
        differs = [] if session["commit"] == now["commit"] else [f"commit {session['commit']}"]
        versions, machine = session["versions"], session["hardware"]
        differs += [f"{name} {old}" for name, old in versions.items() if old != now["versions"].get(name)]
        differs += [
            f"{name} {machine.get(name)}" for name in HARDWARE if machine.get(name) != now["hardware"].get(name)
        ]
        parts += [", ".join(differs)] if differs else []
    told = f"with {' and '.join(dict.fromkeys(parts))}" if parts else ""
    code = f"by other code ({', '.join(dated)})" if dated else ""
    unknown = "" if one.lines.provenance else "nobody knows where"
    return ", ".join(filter(None, (told, code, unknown)))
