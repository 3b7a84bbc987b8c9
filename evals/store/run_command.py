"""The commands that run the matrix of a results folder and that repair its journals, for hints in errors."""

from __future__ import annotations

import shlex
from pathlib import Path

from evals.store.kept_matrix import kept
from hidrop.program import program

# The files of bundled matrices. Their names are the names of their folders in results/.
BUNDLED = Path(__file__).parents[1] / "matrix" / "bundled"


def run_command(folder: Path) -> str:
    """`run.py run mini` for results/mini. MATRIX is a placeholder where the folder does not name its file."""
    own = folder / "matrix.yaml"  # the commands ablate and analyze leave theirs
    if own.is_file():
        matrix = str(own)
    elif (BUNDLED / f"{folder.name}.yaml").is_file():
        matrix = folder.name
    else:
        matrix = str(kept(folder) or "MATRIX")
    out = [] if folder == Path("results") / matrix else ["--out", str(folder)]
    return shlex.join([*program().split(), "run", matrix, *out])


def repair_command(journal: Path) -> str:
    """`run.py doctor results/mini --repair` for a journal in the folder's samples/ or samples/parts/."""
    samples = journal.parent.parent if journal.parent.name == "parts" else journal.parent
    return shlex.join([*program().split(), "doctor", str(samples.parent), "--repair"])


def folder_of(file: str) -> Path:
    """The results folder of results/mini/leaderboard.json, of results/mini/profiles/a.json and of REV:results/mini."""
    path = Path(file if Path(file).exists() else file.rsplit(":", 1)[-1])
    if path.suffix == ".json":
        path = path.parent
    return path.parent if path.name == "profiles" else path
