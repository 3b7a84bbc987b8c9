"""Commands for a reviewer: reference, verify."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from evals.cli.command import Group
from evals.cli.exit_codes import DONE
from evals.cli.options import Options, option

COMMANDS = Group("Check results")


@dataclass(frozen=True, kw_only=True)
class ReferenceOptions(Options):
    task: Annotated[str | None, option("--task", "TASK", "Only this task, such as gqa.")] = None
    method: Annotated[str | None, option("--method", "METHOD", "Only this method, such as fastv.")] = None
    model: Annotated[str | None, option("--model", "MODEL", "Only this model, such as llava-1.5-7b.")] = None


@COMMANDS.command("reference", example="--model llava-1.5-7b --task gqa --method fastv")
def reference(options: ReferenceOptions) -> int:
    """Print published numbers with their sources.

    Scores as papers and other people's runs print them, the methods' published settings with their average tokens, and
    the runs whose answers are public. Averages are visual tokens over all layers: ~ is inferred, ? is unknown.
    """
    from evals.report.published_list import known

    found = known(options.model, options.method, options.task)
    options.say(found.text())
    options.document(found.document())
    return DONE
