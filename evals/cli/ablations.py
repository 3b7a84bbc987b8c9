"""The command `ablate`: train the variants of a study, score them, judge its claims."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from evals.cli.command import Group
from evals.cli.exit_codes import DONE, SOME_FAILED
from evals.cli.options import Options, argument, check_writable, flag, option, written
from hidrop.errors import UserError
from hidrop.regular_files import Unreadable, read_text

COMMANDS = Group("Analyze")


@dataclass(frozen=True, kw_only=True)
class AblateOptions(Options):
    study: Annotated[str, argument("STUDY", "A study file, or a bundled study: ablations, suggested.")] = "ablations"
    work: Annotated[Path | None, option("--work", "DIR", "Folder of trained models (default: runs/<study>).")] = None
    out: Annotated[Path | None, option("--out", "DIR", "Results folder (default: results/<study>).")] = None
    train: Annotated[int | None, option("--train", "N", "Train at most N models now; 0 only scores.", min=0)] = None
    dry_run: Annotated[bool, flag("--dry-run", "Only list which models are trained and which are missing.")] = False


def seconds_of(record: Path) -> float:
    """How long a training took. Raises UserError for a file that is not the record of a training."""
    try:
        seconds = json.loads(read_text(record))["seconds"]
        return float(seconds)
    except (Unreadable, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{record}: not the record of a training: {error}. Remove its folder to train again") from None


@COMMANDS.command("ablate", example="ablations --train 2")
def ablate(options: AblateOptions) -> int:
    """Train and score the variants of a study, and check its claims.

    Trains every variant with several seeds. Run it again to continue. Exits with 1 while models of the study are
    missing, or when cells failed.
    """
    options.loading(f"{options.study}: loading libraries")
    from evals.ablations import runs, table
    from evals.ablations.spec import load_study
    from evals.run.matrix_run import RunOptions, run_matrix, write_matrix

    study = load_study(options.study)
    work = options.work or Path("runs") / study.name
    out = options.out or Path("results") / study.name
    if options.dry_run:
        listed = runs.runs_of(study, work)
        options.say("\n".join(f"{'trained' if run.done else 'missing'}  {run.folder}" for run in listed))
        options.document({"models": [{"folder": str(run.folder), "trained": run.done} for run in listed]})
        return DONE
    check_writable(out)
    options.show_log()
    others = runs.train_missing(study, work, at_most=options.train)
    left = [run for run in runs.runs_of(study, work) if not run.done]
    if left:
        options.say(f"{len(left)} models are not trained yet; other processes train {len(others)} of them")
    matrix = write_matrix(runs.matrix_of(study, work), out)
    finished = run_matrix(RunOptions(matrix, out, quiet=options.quiet, stream=options.stream))
    if finished is None:  # this process only helped another one
        return DONE
    document = finished.document
    seconds = {
        run.title: seconds_of(run.model / "training.json")
        for run in [*runs.starts_of(study, work), *runs.runs_of(study, work)]
        if run.done
    }
    record = table.build(study, document, seconds)
    paths = table.write(study, document, record, out)
    options.say(table.shown(study, document))
    options.say(written(*paths))
    options.document(record)
    return SOME_FAILED if left or document["failed"] else DONE
