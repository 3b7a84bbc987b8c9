"""`run.py ablate`: train, score, judge."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

from evals.cli.arguments import natural, print_json, stream_of

FINISHED, UNFINISHED = 0, 1


def add(commands: Any) -> None:
    ablate = commands.add_parser(
        "ablate", help="train the variants of a study with several seeds, score them and say which claims hold"
    )
    ablate.add_argument("study", metavar="FILE", nargs="?", default="ablations", help="default: the bundled study")
    ablate.add_argument("--work", type=Path, metavar="DIR", help="trained models (default: runs/<study>)")
    ablate.add_argument("--out", type=Path, metavar="DIR", help="results folder (default: results/<study>)")
    ablate.add_argument("--train", type=natural, metavar="N", help="train at most N models now; 0: only score")
    ablate.add_argument("--dry-run", action="store_true", help="list what is trained and what is missing")
    ablate.add_argument("--json", action="store_true", help="last line of stdout: what was found, as one JSON document")
    ablate.set_defaults(action=ablate_command)


def ablate_command(arguments: argparse.Namespace) -> int:
    """Exit code 1 as long as models of the study are missing, or cells failed."""
    from evals.ablations import runs, table
    from evals.ablations.spec import load_study
    from evals.run.matrix_run import RunOptions, run_matrix, write_matrix

    study = load_study(arguments.study)
    work = arguments.work or Path("runs") / study.name
    out = arguments.out or Path("results") / study.name
    stream = stream_of(arguments)
    if arguments.dry_run:
        for run in runs.runs_of(study, work):
            print(f"{'trained' if run.done else 'missing'}  {run.folder}", file=stream)
        return FINISHED
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    others = runs.train_missing(study, work, at_most=arguments.train)
    left = [run for run in runs.runs_of(study, work) if not run.done]
    if left:
        print(f"{len(left)} models are not trained yet, {len(others)} of them wait for other processes", file=stream)
    matrix = write_matrix(runs.matrix_of(study, work), out)
    made = run_matrix(RunOptions(matrix, out, stream=stream))
    if made is None:
        return FINISHED
    document = made.document
    seconds = {
        run.title: json.loads((run.model / "training.json").read_text())["seconds"]
        for run in [*runs.starts_of(study, work), *runs.runs_of(study, work)]
        if run.done
    }
    record = table.build(study, document, seconds)
    written = table.write(study, document, record, out)
    print(table.shown(study, document), file=stream)
    print(f"written: {', '.join(str(path) for path in written)}", file=stream)
    print_json(arguments, record)
    return UNFINISHED if left or document["failed"] else FINISHED
