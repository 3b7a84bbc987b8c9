"""Cells that `verify` draws from a results folder, and why some of them cannot be run again.

A cell runs again from its matrix. Its journal's identity says whether that is still the same cell. `DATED` parts change
with the code and the libraries. Any other part (weights, data, fields, batch size ...) makes it another cell.
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Any

from evals.matrix.resolve import MatrixRow
from evals.matrix.schema import AUTO, Cell, Matrix, load_matrix
from evals.run.cell_journals import CellJournals
from evals.run.engine import Engine
from evals.store import kept_matrix
from evals.store.cell_files import finished
from evals.store.folders import read_document, samples_file
from evals.store.journal import Lines, canonical
from evals.store.result_document import CellEntry, ResultDocument, cell_key
from evals.store.run_command import BUNDLED, run_command
from hidrop.errors import UserError, shown

# Parts of an identity that follow from the code of hidrop, of a method and of lmms-eval: they are told, not refused.
DATED = ("source", "numeric", "protocol", "decoding", "official")
CHANGED = {
    "weights": "its checkpoint has other weights now. Bring back those that it was measured with",
    "data": "its data is not what it was measured on. Bring back the files that it read",
}


@dataclass(frozen=True)
class Drawn:
    """A finished cell with its journal, and the samples to ask again, in the order of doc_id."""

    cell: Cell
    lines: Lines
    asked: tuple[int, ...]

    @property
    def device(self) -> str:
        """The kind of device on which it was answered."""
        return str(self.lines.header["identity"]["device"])


def matrix_file(folder: Path, document: ResultDocument, named: str | None) -> str:
    """The matrix of a results folder.

    `named`, the folder's own matrix.yaml, the one that its last run kept, the one of its command, or a bundled one.

    Raises UserError if there is none.
    """
    own = folder / "matrix.yaml"
    if named or own.is_file():
        return named or str(own)
    if found := kept_matrix.kept(folder, document["matrix"]):
        return str(found)
    places = [*_of_command(document.get("command", "")), document["matrix"]]
    for place in places:
        if Path(place).is_file() or (BUNDLED / _file_name(place)).is_file():
            return place
    told = f", and {places[0]} of its command is not here" if len(places) > 1 else ""
    raise UserError(
        f"{folder}: its matrix '{document['matrix']}' is not a bundled one{told}. Give the file with --matrix FILE"
    )


def matrix_of(file: str, folder: Path, document: ResultDocument) -> Matrix:
    """The matrix in a file, with the limit of the results. Raises UserError if it has another name than the results."""
    matrix = load_matrix(file, limit=document["limit"])
    if matrix.name != document["matrix"]:
        raise UserError(
            f"{file}: its name is '{matrix.name}', and {folder} has results of '{document['matrix']}'. Give the matrix "
            "that it was run with by --matrix FILE"
        )
    return matrix


def _file_name(place: str) -> str:
    """The file that a bundled matrix has; no file's name for a path."""
    return f"{place.removesuffix('.yaml')}.yaml" if Path(place).parent == Path(".") else ""


def _of_command(command: str) -> list[str]:
    """The matrix in the command line that a document holds, as `run MATRIX` or `--matrix MATRIX`."""
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    return [after for word, after in pairwise(words) if word in ("--matrix", "run", "retry")][:1]


def candidates(folder: Path, document: ResultDocument, only: str | None) -> list[CellEntry]:
    """The document's cells with a finished journal. Raises UserError if there are none."""
    found = [cell for cell in document["cells"] if (path := samples_file(folder, cell)) and finished(path)]
    if not found:
        raise UserError(
            f"{folder}: no finished journals in samples/, so there is nothing to compare new answers with. Committed "
            f"results leave them out; `{run_command(folder)}` makes them again"
        )
    chosen = [cell for cell in found if only is None or _matches(cell_key(cell), only)]
    if not chosen:
        raise UserError(f"--only {only}: matches no finished cell of {folder}. Its first is {cell_key(found[0])}")
    return chosen


def _matches(key: str, pattern: str) -> bool:
    return fnmatchcase(key, pattern) or fnmatchcase(key, f"*{pattern}*")


def draw(
    folder: Path, known: Sequence[CellEntry], matrix: Matrix, *, cells: int, samples: int | None, seed: int
) -> list[Drawn]:
    """Draw `cells` of the `known` cells, in their order, and `samples` of each (None: all).

    The same folder, numbers and seed give the same draw, and a cell's samples do not depend on the other cells. Raises
    UserError for a damaged journal, and for cells that the matrix does not have.
    """
    places = sorted(random.Random(seed).sample(range(len(known)), min(cells, len(known))))
    of_matrix = {cell.key: cell for cell in matrix.cells()}
    gone = [cell_key(known[place]) for place in places if cell_key(known[place]) not in of_matrix]
    if gone:
        raise UserError(
            f"{matrix.file}: has no cell {', '.join(gone)} any more. Give the matrix that {folder} was run with by "
            "--matrix FILE"
        )
    found = []
    for place in places:
        key, path = cell_key(known[place]), samples_file(folder, known[place])
        assert path is not None
        lines = Lines.of(path)
        ids = sorted(lines.answers)
        asked = ids if samples is None else random.Random(f"{seed} {key}").sample(ids, min(samples, len(ids)))
        found.append(Drawn(_sized(of_matrix[key], lines), lines, tuple(sorted(asked))))
    return found


def _sized(cell: Cell, lines: Lines) -> Cell:
    """The cell with the batch size that `auto` found when it was measured."""
    if cell.batch_size != AUTO:
        return cell
    return replace(cell, batch_size=lines.header["identity"]["batch_size"])


def refusals(
    drawn: Sequence[Drawn], rows: dict[tuple[str, str], MatrixRow], engine: Engine
) -> tuple[list[str], dict[str, list[str]]]:
    """Why cells cannot be run again, a line for each; and by key, the `DATED` parts in which the others differ."""
    problems, dated = [], {}
    for one in drawn:
        journals = CellJournals(one.lines.path.parent.parent, rows, one.device, engine)
        today = journals.identity(one.cell, engine.weights_digest(one.cell.spec.source))
        then = one.lines.header["identity"]
        names = [name for name in {**then, **today} if canonical(then.get(name)) != canonical(today.get(name))]
        other = [name for name in names if name not in DATED]
        if other:
            problems.append(f"{one.cell.key}: {CHANGED.get(other[0]) or _settings(other, then, today)}")
        dated[one.cell.key] = names
    return problems, dated


def _settings(names: Sequence[str], then: dict[str, Any], today: dict[str, Any]) -> str:
    parts = (f"{name} was {shown(then.get(name))} and is {shown(today.get(name))}" for name in names)
    return f"its matrix has changed: {', '.join(parts)}. Give the one that it was measured with by --matrix FILE"


def read(folder: Path) -> ResultDocument:
    """The document of a results folder. Raises UserError for one in a commit, which has no journals."""
    if not folder.is_dir():
        raise UserError(f"{folder}: not a results folder")
    return read_document(folder)
