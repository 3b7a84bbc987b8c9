"""Commands for a reviewer: reference, verify."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from evals.cli.command import Group
from evals.cli.exit_codes import DONE, SOME_FAILED
from evals.cli.options import Options, Workers, argument, flag, option

COMMANDS = Group("Check results")


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(Options):
    task: Annotated[str | None, option("--task", "TASK", "Only this task, such as gqa.")] = None
    method: Annotated[str | None, option("--method", "METHOD", "Only this method, such as fastv.")] = None
    model: Annotated[str | None, option("--model", "MODEL", "Only this model, such as llava-1.5-7b.")] = None
    all: Annotated[bool, flag("--all", "Print everything, in more than a thousand lines.")] = False


@COMMANDS.command("reference", example="--model llava-1.5-7b --task gqa --method fastv")
def reference(options: ReferenceOptions) -> int:
    """Print published numbers with their sources.

    Scores as papers and other people's runs print them, the methods' published settings with their average tokens, and
    the runs whose answers are public. Averages are visual tokens over all layers: ~ is inferred, ? is unknown. Without
    --model, --method, --task or --all it prints how much there is; --json has everything in any case.
    """
    from evals.report.published_list import known

    found = known(options.model, options.method, options.task)
    whole = options.all or any((options.model, options.method, options.task))
    options.say(found.text() if whole else found.overview())
    options.document(found.document())
    return DONE


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Options):
    folder: Annotated[Path, argument("DIR", "A results folder with its journals (samples/).")]
    cells: Annotated[int, option("--cells", "N", "How many finished cells to draw.", min=1)] = 10
    samples: Annotated[
        int | None, option("--samples", "N", "Run only N samples of each cell again (default: all).", min=1)
    ] = None
    seed: Annotated[int, option("--seed", "N", "Seed of the draw.", min=0)] = 0
    only: Annotated[str | None, option("--only", "PATTERN", "Draw from cells whose model/method/task matches.")] = None
    matrix: Annotated[
        str | None,
        option("--matrix", "FILE", "The matrix (default: as the run read it, or the one that the folder names)."),
    ] = None
    workers: Workers = None


@COMMANDS.command("verify", example="results/mini --cells 5 --samples 16")
def verify(options: VerifyOptions) -> int:
    """Run random finished cells again and compare their answers.

    Every sample is compared with the folder's journal. The folder is not changed. Cells that were measured with other
    versions or another commit say so. Exits with 1 if an answer or a value differs, or a cell fails; with 2 if cells
    cannot be run again (another matrix, other weights or data, no journals).
    """
    options.loading(f"{options.folder}: loading libraries")
    from rich.console import Console

    from evals.matrix import outside_code
    from evals.matrix.schema import find
    from evals.run import drawn_cells, verification
    from evals.tasks.registry import add_files

    document = drawn_cells.read(options.folder)
    known = drawn_cells.candidates(options.folder, document, options.only)
    file = drawn_cells.matrix_file(options.folder, document, options.matrix)
    if code := outside_code.outside_code(find(file)):
        options.say(outside_code.text(code))
    add_files(document.get("own_tasks", {}))
    matrix = drawn_cells.matrix_of(file, options.folder, document)
    drawn = drawn_cells.draw(
        options.folder, known, matrix, cells=options.cells, samples=options.samples, seed=options.seed
    )
    each = "" if options.samples is None else f", {options.samples} samples of each"
    options.say(f"{options.folder}: {len(drawn)} of {len(known)} finished cells{each}, drawn with seed {options.seed}")
    options.say(f"matrix: {file}")
    console = Console(stderr=True, quiet=options.quiet)
    found = verification.verify(options.folder, matrix, drawn, workers=options.workers, console=console)
    options.say(found.text())
    options.document(
        {**dataclasses.asdict(found), "file": file, "seed": options.seed, "finished": len(known), "same": found.same}
    )
    return DONE if found.same else SOME_FAILED
