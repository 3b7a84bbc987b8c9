"""The commands on tasks (benchmarks): tasks, score."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated

from evals.cli.command import Group
from evals.cli.exit_codes import DONE
from evals.cli.options import Options, option
from hidrop.errors import UserError

COMMANDS = Group("Tasks")


@dataclass(frozen=True, kw_only=True)
class TasksOptions(Options):
    grep: Annotated[str | None, option("--grep", "WORD", "Only lines with this text, capitals aside.")] = None
    kind: Annotated[str | None, option("--class", "CLASS", "Only this class, such as 'runs here'.")] = None


@COMMANDS.command("tasks", example="--grep chart")
def tasks(options: TasksOptions) -> int:
    """List all tasks that a matrix can name, each with its class and what it needs.

    The classes: first-class (a file in this project, with LLaVA's protocol where LLaVA has one), runs here (lmms-eval's
    own questions and scores), log-likelihood (the model rates given answers), to judge and to submit (the answers are
    written, and scored elsewhere), needs packages, needs data (a step downloads), refused. Groups and tags stand for
    their tasks. No data set is loaded, and no function of a task is run.
    """
    from evals.plain_table import aligned
    from evals.tasks.index import tasks_folder
    from evals.tasks.listing import HEADINGS, counts, listed

    if tasks_folder() is None:
        raise UserError("lmms-eval is not installed: install it with `make setup`, or pip install --no-deps lmms-eval")
    everything = listed()
    found = listed(options.grep, options.kind)
    if not found:
        kinds = ", ".join(counts(everything))
        raise UserError(f"no task with this text and class, of {len(everything):,}. The classes: {kinds}")
    options.say("\n".join(aligned([HEADINGS, *(one.cells() for one in found)])))
    options.say(
        f"\n{len(found):,} of {len(everything):,} names: {', '.join(f'{n} {k}' for k, n in counts(found).items())}"
    )
    options.document({"tasks": [dataclasses.asdict(one) for one in found], "total": len(everything)})
    return DONE
